// Title: A valley with a spring, at the edge, with noise
// Needs: noise, ode, valley
gdflows.figure("valley", function (fig) {
  "use strict";
  const { generator, normals } = gdflows.math.noise;
  const { value, walk, glide, follow, rest } = gdflows.math.valley;
  const say = gdflows.say;
  const STEPS = 400, RUNS = 60, LAST = 150;
  fig.try("make the learning rate smaller: from which h on does gradient descent follow the flow to y*? " +
    "Back at h = 0.05 the swing holds the sharpness y at the edge 2/h = 40, though the spring pulls to " +
    "y*. Raise the noise: where does it rest now?");
  fig.value("a", 1.3, -4, 4);
  fig.value("b", 38, 34, 48);
  fig.value("r", 1, 1, 1e6);
  const plane = fig.plot({
    name: "The valley from above, with one run",
    x: [-4, 4], y: [34, 48], shape: 0.95, xlabel: "x, across", ylabel: "y, which is the sharpness",
  });
  const time = fig.plot({
    name: "Sharpness y against the number of steps: one run, the mean of sixty, the gradient flow, the rod and its rest",
    x: [0, STEPS], y: [34, 48], shape: 0.95, xlabel: "step", ylabel: "y",
  });
  plane.handle({
    label: "Starting point",
    at: () => [fig.state.a, fig.state.b],
    move: (x, y) => Object.assign(fig.state, { a: x, b: y }),
    say: () => `x ${say(fig.state.a)}, y ${say(fig.state.b, 1)}`,
  });
  plane.anywhere();
  fig.slider({ key: "h", label: "learning rate h", min: 0.042, max: 0.055, step: 0.0005, start: 0.05, say: (v) => say(v, 4) });
  fig.slider({ key: "s", label: "noise s on the slope in x", min: 0, max: 10, step: 0.25, start: 0, say: (v) => say(v) });
  fig.slider({ key: "k", label: "stiffness κ of the spring", min: 0.05, max: 1, step: 0.05, start: 0.2, say: (v) => say(v) });
  fig.slider({ key: "t", label: "y*, to which the spring pulls", min: 36, max: 47, step: 0.5, start: 44, say: (v) => say(v, 1) });
  fig.button("Other random numbers", () => {
    fig.state.r += 1;
    fig.change();
  });
  fig.legend([
    { model: "SGD", name: "steps, without noise GD; bold: mean of sixty" }, { model: "NGF", name: "gradient flow, NGF" },
    { model: "stochastic rod", name: "stochastic rod's centre" }, { model: "stochastic rod", name: "its rest", mark: "dashed" },
    { model: "edge", name: "edge 2/h", mark: "dashed" },
  ]);
  fig.draw = function () {
    const { a, b, r, h, s, k, t } = fig.state;
    const v = { kappa: k, top: t };
    const normal = normals(generator(Math.round(r)));
    const one = walk(v, h, s, a, b, STEPS, normal);
    const mean = one.map((p) => p[1]);
    const runs = s ? RUNS : 1;
    for (let n = 1; n < runs; n++) {
      walk(v, h, s, a, b, STEPS, normal).forEach((p, j) => (mean[j] += p[1]));
    }
    const average = mean.map((y) => y / runs);
    const flow = follow(v, h, s, b, a * a, STEPS);
    const glided = glide(v, h, a, b, STEPS);
    const still = rest(v, h, s);
    plane.contours("E", (x, y) => value(v, x, y), [0.5, 2, 5, 15, 40, 80, 150, 250]);
    plane.cache.clear(); // for the spring may move
    plane.line(glided, { model: "NGF", width: 3 });
    plane.line(one, { model: "SGD", width: 0.5, opacity: 0.5 });
    plane.dots(one, { model: "SGD", r: 1.6 });
    for (const plot of [plane, time]) plot.rule(2 / h, { model: "edge", dash: "6 4", width: 2 }, true);
    time.line(glided.map((p, j) => [j, p[1]]), { model: "NGF", width: 3 });
    time.line(one.map((p, j) => [j, p[1]]), { model: "SGD", width: 0.6, opacity: 0.6 });
    time.line(average.map((y, j) => [j, y]), { model: "SGD", width: 2.2 });
    time.line(flow.map((p, j) => [j, p[0]]), { model: "stochastic rod", width: 2.2 });
    time.rule(still, { model: "stochastic rod", dash: "3 3", width: 2 }, true);
    const late = average.slice(-LAST).reduce((sum, y) => sum + y, 0) / LAST;
    const name = s ? "SGD" : "Gradient descent";
    const held = !Number.isFinite(late) || Math.abs(late) > 1e3 ? `${name} runs away`
      : `${name}'s y over the last ${LAST} steps is ${say(late)} on average`;
    fig.seen(
      `h = ${say(h, 4)}, s = ${say(s)}, κ = ${say(k)}: ${held}, the gradient flow ends at ${say(glided[glided.length - 1][1])}. ` +
      (Number.isNaN(still) ? "The balance of spring and swing has no solution: the sharpness falls."
        : `The balance of spring and swing is at ${say(still)}, ${t < 2 / h && s === 0 ? "which is y*, below the edge." : still >= 2 / h - 1e-9 ? "the edge itself."
          : `${say(2 / h - still)} below the edge.`}`),
    );
  };
});
