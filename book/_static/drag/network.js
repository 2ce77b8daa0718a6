// Title: A network at its edge, trained here
// Needs: noise, network
gdflows.figure("network", function (fig) {
  "use strict";
  const { output, loss, hessian, top, step, rod, start } = gdflows.math.network;
  const say = gdflows.say;
  const UNITS = 8, POINTS = 9, SHOWN = 600, EVERY = 2;
  fig.try("train; when the sharpness has risen to 2/h, look at the two fits, at both ends of the rod. " +
    "Then halve the learning rate while it trains. Drag the data and see it sharpen again.");
  const xs = [...Array(POINTS).keys()].map((k) => -1 + (2 * k) / (POINTS - 1));
  xs.forEach((x, k) => fig.value(`y${k}`, Number(Math.sin(3.5 * x).toFixed(2)), -1.5, 1.5));
  fig.value("r", 2, 1, 1e6);
  const fit = fig.plot({
    name: "The data, and the network at the two latest iterates",
    x: [-1.1, 1.1], y: [-1.5, 1.5], shape: 0.95, xlabel: "x", ylabel: "y",
  });
  const sharp = fig.plot({
    name: "Sharpness and 2 over eta against the number of steps",
    x: [0, SHOWN], y: [0, 20], shape: 0.95, xlabel: "step", ylabel: "sharpness",
  });
  const losses = fig.plot({
    name: "Loss of the iterates and of the rod's centre against the number of steps, logarithmic",
    x: [0, SHOWN], y: [1e-4, 10], log: true, shape: 0.95, xlabel: "step", ylabel: "loss",
  });
  xs.forEach((x, k) => fit.handle({
    label: `Data point ${k + 1} of ${POINTS}, at x = ${say(x)}`,
    axis: "y",
    at: () => [x, fig.state[`y${k}`]],
    move: (_, y) => (fig.state[`y${k}`] = y),
    say: () => `y ${say(fig.state[`y${k}`])}`,
  }));
  const data = () => xs.map((x, k) => [x, fig.state[`y${k}`]]);
  let theta, history, count;
  const begin = () => {
    theta = start(UNITS, Math.round(fig.state.r));
    [history, count] = [[], 0];
  };
  fig.slider({ key: "e", label: "learning rate h", min: 0.02, max: 0.5, step: 0.01, start: 0.25, say: (v) => say(v) });
  const player = fig.player({
    label: "Train", many: 150,
    tick() {
      for (let k = 0; k < EVERY; k++) {
        const next = step(theta, data(), fig.state.e);
        if (!next.every((v) => Math.abs(v) < 1e4)) return false;
        look(next);
        theta = next;
        count += 1;
      }
      return true;
    },
  });
  fig.button("Start again", () => {
    player.stop();
    begin();
    fig.change();
  });
  fig.button("Another network", () => {
    player.stop();
    fig.state.r += 1;
    begin();
    fig.change();
  });
  fig.changed = begin;
  fig.legend([
    { model: "GD", name: "iterates; dashed: the next one" }, { model: "rod", name: "the rod's centre" },
    { model: "edge", name: "2/h", mark: "dashed" },
  ]);
  function look(next) {
    const points = data(), { value, vector } = top(hessian(theta, points));
    const { centre, half } = rod(theta, next, vector);
    history.push({
      k: count, sharpness: value, edge: 2 / fig.state.e, loss: loss(theta, points), middle: loss(centre, points), half,
    });
    if (history.length > SHOWN) history.shift();
  }
  fig.draw = function () {
    const points = data();
    const next = step(theta, points, fig.state.e);
    const { value, vector } = top(hessian(theta, points));
    const { half } = rod(theta, next, vector);
    const first = history.length ? history[0].k : 0;
    const frame = [first, first + SHOWN];
    const edge = 2 / fig.state.e;
    sharp.frame(frame, [0, 1.25 * Math.max(edge, value, ...history.map((p) => p.sharpness))]);
    losses.frame(frame, [1e-4, 10]);
    const grid = [...Array(89).keys()].map((k) => -1.1 + k * 0.025);
    fit.line(grid.map((x) => [x, output(theta, x)]), { model: "GD" });
    fit.line(grid.map((x) => [x, output(next, x)]), { model: "GD", dash: "5 4" });
    sharp.line(history.map((p) => [p.k, p.edge]), { model: "edge", dash: "6 4" });
    sharp.dots([[count, edge]], { model: "edge" });
    sharp.line(history.map((p) => [p.k, p.sharpness]), { model: "GD" });
    sharp.dots([[count, value]], { model: "GD" });
    losses.line(history.map((p) => [p.k, p.loss]), { model: "GD", width: 1.2 });
    losses.line(history.map((p) => [p.k, p.middle]), { model: "rod" });
    const ratio = value / edge;
    fig.seen(
      `Step ${count}: sharpness ${say(value, 1)}, 2/h = ${say(edge, 1)}, loss ${loss(theta, points).toPrecision(2)}; ` +
      `the rod's half length along the sharpest direction is ${Math.abs(half).toPrecision(2)}. ` +
      (ratio > 1.05 ? "Beyond the edge: the swing grows." : ratio > 0.9 ? "At the edge." : "Below the edge: no swing lasts."),
    );
  };
});
