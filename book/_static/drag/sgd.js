// Title: SGD and its equations, batch by batch
// Needs: noise
gdflows.figure("sgd", function (fig) {
  "use strict";
  const { generator, run, moments, equation } = gdflows.math.noise;
  const say = gdflows.say;
  const START = 2, STEPS = 40, BARS = 61, AT_ONCE = 1000, MOST = 60000;
  fig.try("draw more runs and watch the histogram grow into its law. Then make the batch smaller: " +
    "which of its features does no equation have? And raise hλ: which of the two is farther off?");
  const law = fig.plot({
    name: "Histogram of SGD's place after forty steps, and the laws of the two equations",
    x: [-1, 1], y: [0, 1], xlabel: "θ after 40 steps", ylabel: "density",
  });
  const spread = fig.plot({
    name: "Variance after forty steps against h lambda, over that of the equation of order 1",
    x: [0, 1.9], y: [0, 4], xlabel: "hλ", ylabel: "variance, in units of the first order's",
  });
  let runs = null;
  const begin = () => (runs = null);
  const draw = () => {
    for (let k = 0; k < AT_ONCE && runs.values.length < MOST; k++) {
      runs.values.push(run(fig.state.h, 2 ** fig.state.b, START, STEPS, runs.uniform));
    }
  };
  fig.slider({
    key: "h", label: "hλ, learning rate times curvature", min: 0.05, max: 1.8, step: 0.05, start: 0.3,
    say: (v) => say(v), live: begin,
  });
  fig.slider({
    key: "b", label: "batch size", min: 0, max: 7, step: 1, start: 2, say: (v) => String(2 ** v), live: begin,
  });
  fig.value("s", 1, 1, 1e6);
  fig.player({
    label: "Draw more runs", many: 10,
    tick() {
      draw();
      return runs.values.length < MOST;
    },
  });
  fig.button("Other random numbers", () => {
    fig.state.s += 1;
    begin();
    fig.change();
  });
  fig.changed = begin;
  fig.legend([
    { model: "SGD" }, { model: "SDE 1", name: "equation of order 1" },
    { model: "SDE 2", name: "equation of order 2" },
  ]);
  const normal = (mean, variance) => (x) =>
    Math.exp(-((x - mean) ** 2) / (2 * variance)) / Math.sqrt(2 * Math.PI * variance);

  fig.draw = function () {
    const { h, b, s } = fig.state;
    const B = 2 ** b;
    if (!runs) {
      runs = { uniform: generator(Math.round(s)), values: [] };
      draw();
    }
    const [mean, variance] = moments(h, B, START, STEPS);
    const width = 4.5 * Math.sqrt(variance), low = mean - width, size = (2 * width) / BARS;
    const counts = new Array(BARS).fill(0);
    let total = 0, squares = 0, cubes = 0;
    for (const value of runs.values) {
      const bar = Math.floor((value - low) / size);
      if (bar >= 0 && bar < BARS) counts[bar] += 1;
      total += value;
    }
    const n = runs.values.length, average = total / n;
    for (const value of runs.values) {
      squares += (value - average) ** 2;
      cubes += (value - average) ** 3;
    }
    const measured = squares / (n - 1), skew = cubes / n / (squares / n) ** 1.5;
    const heights = counts.map((c) => c / (n * size));
    const laws = [1, 2].map((order) => equation(h, B, START, STEPS, order));
    const peak = Math.max(...heights, ...laws.map(([m, v]) => normal(m, v)(m)));
    law.frame([low, mean + width], [0, 1.1 * peak]);
    const stairs = heights.flatMap((v, k) => [[low + k * size, v], [low + (k + 1) * size, v]]);
    law.area(stairs, 0, { model: "SGD", opacity: 0.25 });
    law.line(stairs, { model: "SGD", width: 1 });
    laws.forEach(([m, v], k) => {
      const density = normal(m, v);
      const points = [];
      for (let x = low; x <= mean + width; x += size / 3) points.push([x, density(x)]);
      law.line(points, { model: `SDE ${k + 1}` });
    });
    const curve = (f) => [...Array(94).keys()].map((k) => 0.02 * (k + 1)).map((u) => [u, f(u)]);
    const first = (u) => equation(u, B, START, STEPS, 1)[1];
    spread.line(curve((u) => moments(u, B, START, STEPS)[1] / first(u)), { model: "SGD" });
    spread.line(curve(() => 1), { model: "SDE 1" });
    spread.line(curve((u) => equation(u, B, START, STEPS, 2)[1] / first(u)), { model: "SDE 2" });
    spread.dots([[h, measured / first(h)]], { model: "SGD", r: 6 });
    fig.seen(
      `${n} runs, batches of ${B}, hλ = ${say(h)}: the variance is ${say(measured / first(h))} times that of the ` +
      `equation of order 1, exactly ${say(variance / first(h))}; that of order 2 has ${say(laws[1][1] / first(h))}. ` +
      `The skewness is ${say(skew)}; both equations have 0.`,
    );
  };
});
