// Title: One order more, in one dimension
// Needs: ode, scalar
gdflows.figure("truncations", function (fig) {
  "use strict";
  const { solve } = gdflows.math.ode;
  const { equation, cosh, field, descend } = gdflows.math.scalar;
  const say = gdflows.say;
  const STEPS = 8, MOST = 7, FINE = 8;
  const terms = equation(MOST);
  const nameOf = (n) => (n === 0 ? "NGF" : n === 1 ? "IGR" : `order ${n}`);
  fig.try("with a small learning rate raise the order: each brings digits. Then raise the learning " +
    "rate, or start higher up the wall, and look for the order from which on more terms are worse.");
  fig.value("a", 2, 0.1, 2.9);
  const loss = fig.plot({
    name: "The loss, the hyperbolic cosine, with gradient descent's iterates",
    x: [-1, 3], y: [-0.4, 9], shape: 0.8, xlabel: "θ", ylabel: "E = cosh θ − 1",
  });
  const path = fig.plot({
    name: "Theta against the number of steps: gradient descent and the flow of the chosen order",
    x: [0, STEPS], y: [-1, 3], shape: 0.8, xlabel: "step", ylabel: "θ",
  });
  const errors = fig.plot({
    name: "Largest distance from the iterates against the order of the flow, logarithmic",
    x: [-0.4, MOST + 0.4], y: [1e-9, 10], log: true, shape: 0.8, xlabel: "order n",
    ylabel: "largest distance from GD",
  });
  loss.handle({
    label: "Starting point",
    axis: "x",
    at: () => [fig.state.a, cosh.value(fig.state.a)],
    move: (x) => (fig.state.a = Math.max(0.1, Math.min(2.9, x))),
    say: () => `θ = ${say(fig.state.a)}`,
  });
  fig.slider({
    key: "n", label: "order n: terms up to hⁿ", min: 0, max: MOST, step: 1, start: 1, say: String,
  });
  fig.slider({
    key: "h", label: "learning rate h", min: 0.01, max: 0.5, step: 0.005, start: 0.2, say: (v) => say(v, 3),
  });
  const bottom = [];
  for (let u = -1; u <= 3; u += 0.02) bottom.push([u, cosh.value(u)]);

  fig.draw = function () {
    const { a, h, n } = fig.state;
    const gd = descend(cosh, h, a, STEPS);
    const ts = [...Array(STEPS * FINE + 1).keys()].map((k) => (k * h) / FINE);
    const found = [];
    for (let order = 0; order <= MOST; order++) {
      const { states, ended } = solve(field(terms, cosh, h, order), [a], ts,
        { rtol: 1e-11, atol: 1e-13, most: 4000, runaway: 50 });
      const off = Math.max(...gd.map((u, k) => Math.abs((states[k * FINE] || [Infinity])[0] - u)));
      found.push({ states, off: ended ? Infinity : off });
    }
    fig.legend([{ model: "GD", mark: "dots" }, { model: nameOf(n), name: nameOf(n) + " flow" }]);
    loss.line(bottom, { width: 1.5 });
    loss.dots(gd.map((u) => [u, cosh.value(u)]), { model: "GD", r: 3 });
    path.line(found[n].states.map(([u], k) => [k / FINE, u]), { model: nameOf(n) });
    path.dots(gd.map((u, k) => [k, u]), { model: "GD" });
    const best = found.reduce((m, f, k) => (f.off < found[m].off ? k : m), 0);
    errors.line(found.map((f, k) => [k, f.off]), { width: 1 });
    found.forEach((f, k) => {
      errors.dots([[k, f.off]], { model: nameOf(k), r: k === n ? 7 : 4 });
      if (f.off === Infinity) errors.cross(k, 8, { model: nameOf(k) });
    });
    const sharp = h * cosh.curvature(a);
    const miss = found[n].off === Infinity ? "runs away" : `misses the iterates by at most ${found[n].off.toPrecision(2)}`;
    fig.seen(
      `h = ${say(h, 3)}, hλ at the start ${say(sharp)}: the flow of order ${n} ${miss}. ` +
      `Of the orders 0 to ${MOST}, ${best} is the best${best < MOST ? ": beyond it more terms are worse." : "."}` +
      (gd.some((u) => u < 0) ? " Gradient descent jumps over the minimum; none of these flows can." : ""),
    );
  };
});
