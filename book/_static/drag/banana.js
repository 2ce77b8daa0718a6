// Title: The banana, from wherever you like
// Needs: ode, plane
gdflows.figure("banana", function (fig) {
  "use strict";
  const { banana, descend, follow, sharpness, onCut } = gdflows.math.plane;
  const say = gdflows.say;
  const MODELS = ["NGF", "IGR", "PF", "PF + term"];
  const STEPS = 12, FINE = 24;
  const LEVELS = [0.005, 0.02, 0.1, 0.3, 1, 2.5, 6, 12, 25, 50, 100, 200];
  const E = banana(100);
  fig.try("drop the starting point anywhere; at the start hλ₀ is just below 2. Then move hλ₀ past 2, " +
    "and start farther from the valley's floor. How long does the principal flow keep up?");
  fig.value("a", 0.9, -1.4, 1.4);
  fig.value("b", 0.75, -0.4, 1.6);
  const map = fig.plot({
    name: "The banana from above",
    x: [-1.4, 1.4], y: [-0.4, 1.6], shape: 1, xlabel: "x", ylabel: "y",
  });
  const close = fig.plot({
    name: "Close-up: twelve steps of gradient descent and the flows",
    x: [0.8, 1], y: [0.7, 0.9], shape: 1, xlabel: "x", ylabel: "close-up",
  });
  const errors = fig.plot({
    name: "Distance of each flow from gradient descent's iterates, step by step, logarithmic",
    x: [0, STEPS], y: [1e-6, 1], shape: 1, log: true, xlabel: "step", ylabel: "distance from GD",
  });
  map.handle({
    label: "Starting point",
    at: () => [fig.state.a, fig.state.b],
    move: (x, y) => Object.assign(fig.state, { a: x, b: y }),
    say: () => `x ${say(fig.state.a)}, y ${say(fig.state.b)}`,
  });
  map.anywhere();
  fig.slider({
    key: "x", label: "hλ₀, learning rate times the sharpness at the start", min: 0.1, max: 2.5,
    step: 0.01, start: 1.9, say: (v) => say(v),
  });
  fig.toggle({ key: "t", label: "PF with its non-principal term", start: 0 });
  fig.legend([{ model: "GD", mark: "dots" }, ...MODELS.map((model) => ({ model }))]);

  fig.draw = function () {
    const { a, b, x, t } = fig.state;
    const h = x / sharpness(E, a, b);
    const gd = descend(E, h, a, b, STEPS);
    const around = (k, room) => {
      const values = gd.map((p) => p[k]).filter((v) => Math.abs(v) < 3);
      const [low, high] = [Math.min(...values), Math.max(...values)];
      return [low - room * (high - low) - 0.002, high + room * (high - low) + 0.002];
    };
    close.frame(around(0, 0.15), around(1, 0.15));
    for (const plot of [map, close]) plot.contours("E", E.value, LEVELS);
    let words = "", far = {};
    for (const model of MODELS) {
      if (model === "PF + term" && !t) continue;
      const path = follow(E, h, model, a, b, STEPS, FINE, { rtol: 1e-6, atol: 1e-8, most: 6000 });
      for (const plot of [map, close]) {
        plot.line(path.states.map((s) => [s[0], s[2]]), { model, width: model[0] === "P" ? 1.4 : 2.4 });
      }
      const gap = [];
      gd.forEach(([u, v], k) => {
        const s = path.states[k * FINE];
        if (k && s) gap.push([k, Math.max(1e-12, Math.hypot(s[0] - u, s[1], s[2] - v, s[3]))]);
      });
      errors.line(gap, { model });
      errors.dots(gap, { model, r: 2.5 });
      far[model] = gap;
      if (path.ended) {
        const s = path.ended.state;
        close.cross(s[0], s[2], { model });
        words += ` ${model} cannot be followed beyond step ${say(path.ended.time / h, 1)}` +
          (model[0] === "P" && onCut(E, h, s) ? ": an eigenvalue ran onto the logarithm's cut." : ".");
      }
    }
    close.line(gd, { model: "GD", width: 0.7 });
    for (const plot of [map, close]) plot.dots(gd, { model: "GD", r: plot === map ? 1.5 : 3 });
    const lead = (k) => far.IGR[k - 1] && far.PF[k - 1] && far.IGR[k - 1][1] / far.PF[k - 1][1];
    const [one, last] = [lead(1), lead(STEPS)];
    const times = (v) => (v >= 1 ? `${say(v, v < 10 ? 1 : 0)} times closer than IGR`
      : `${say(1 / v, 1 / v < 10 ? 1 : 0)} times farther off than IGR`);
    fig.seen(
      `h = ${h.toPrecision(2)}, hλ₀ = ${say(x)}.` +
      (one ? ` After one step the principal flow is ${times(one)}` : "") +
      (last ? `; after twelve, ${times(last)}.` : one ? "." : "") + words,
    );
  };
});
