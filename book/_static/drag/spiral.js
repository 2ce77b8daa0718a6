// Title: Around zero, because not through it
// Needs: ode, plane, spiral
gdflows.figure("spiral", function (fig) {
  "use strict";
  const { descend, follow } = gdflows.math.spiral;
  const say = gdflows.say;
  const STEPS = 8, FINE = 40;
  fig.try("move h from below 1, where the flow stays real, to beyond 2; then bend the parabola. " +
    "Does the spiral still meet the dots? Drag the start off the real axis too.");
  fig.value("a", 1, -1.5, 1.5);
  fig.value("b", 0, -1.5, 1.5);
  const plane = fig.plot({
    name: "The principal flow and gradient descent in the complex plane",
    x: [-1.6, 1.6], y: [-1.6, 1.6], equal: true, xlabel: "real part", ylabel: "imaginary part",
  });
  const errors = fig.plot({
    name: "Distance of the flow from the iterates against the number of steps, logarithmic",
    x: [0, STEPS], y: [1e-10, 10], log: true, shape: 1, xlabel: "step", ylabel: "distance from GD",
  });
  plane.handle({
    label: "Starting point",
    at: () => [fig.state.a, fig.state.b],
    move: (x, y) => Object.assign(fig.state, { a: x, b: y }),
    say: () => `${say(fig.state.a)} ${fig.state.b < 0 ? "−" : "+"} ${say(Math.abs(fig.state.b))} i`,
  });
  plane.anywhere();
  fig.slider({ key: "h", label: "learning rate h", min: 0.05, max: 2.3, step: 0.01, start: 1.8, say: (v) => say(v) });
  fig.slider({ key: "c", label: "bend c in E = ½z² + ¼c z⁴", min: -0.3, max: 0.3, step: 0.01, start: 0, say: (v) => say(v) });
  fig.legend([{ model: "GD", mark: "dots" }, { model: "PF" }]);
  fig.draw = function () {
    const { a, b, h, c } = fig.state;
    const gd = descend(c, h, [a, b], STEPS);
    const { states, ended } = follow(c, h, [a, b], STEPS, FINE, { rtol: 1e-10, atol: 1e-12, most: 30000, runaway: 1e3 });
    plane.rule(0, {}, true);
    plane.line(states, { model: "PF" });
    plane.dots(gd, { model: "GD", r: 4 });
    if (ended) plane.cross(...ended.state, { model: "PF" });
    const far = gd.flatMap(([u, v], k) => {
      const s = states[k * FINE];
      return k && s ? [[k, Math.max(1e-10, Math.hypot(s[0] - u, s[1] - v))]] : [];
    });
    errors.line(far, { model: "PF" });
    errors.dots(far, { model: "PF" });
    const last = far.length ? far[far.length - 1][1] : NaN;
    fig.seen(
      `h = ${say(h)}, c = ${say(c)}: at the bottom a step multiplies by ${say(1 - h)}. ` +
      (ended ? `The flow cannot be followed beyond step ${say(ended.time / h, 1)}.`
        : Number.isFinite(last) && last < 1e-6 ? "The flow meets every iterate, to a millionth."
        : `After ${far.length} steps the flow is ${last.toPrecision(2)} away from the iterate.`) +
      (h > 1 && c === 0 && !ended ? " Each step takes it half a turn around zero." : ""),
    );
  };
});
