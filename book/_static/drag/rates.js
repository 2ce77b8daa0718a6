// Title: A fixed rate, DAL and AdaEoS in a bent valley
// Needs: plane, rates
gdflows.figure("rates", function (fig) {
  "use strict";
  const { banana } = gdflows.math.plane;
  const { real, fixed, dal, adaeos } = gdflows.math.rates;
  const say = gdflows.say;
  const STEPS = 60;
  const shape = banana(5);
  const [, , DAL, ADAEOS] = gdflows.CYCLE;
  fig.try("find the fixed rate that does best from this start; then multiply the loss by ten, which " +
    "changes nothing but its unit. Which methods notice? Lower DAL's power below 1 and do it again.");
  fig.value("a", -0.9, -1.5, 1.7);
  fig.value("b", 1.2, -0.5, 1.8);
  const map = fig.plot({
    name: "The valley from above, with sixty steps of each method",
    x: [-1.5, 1.7], y: [-0.5, 1.8], shape: 0.95, xlabel: "x", ylabel: "y",
  });
  const losses = fig.plot({
    name: "Loss over the loss at the start against the number of steps, logarithmic",
    x: [0, STEPS], y: [1e-6, 100], log: true, shape: 0.95, xlabel: "step", ylabel: "loss / first loss",
  });
  const edge = fig.plot({
    name: "Learning rate times sharpness against the number of steps; the edge is at 2",
    x: [0, STEPS], y: [0.03, 30], log: true, shape: 0.95, xlabel: "step", ylabel: "rate × sharpness",
  });
  map.handle({
    label: "Starting point",
    at: () => [fig.state.a, fig.state.b],
    move: (x, y) => Object.assign(fig.state, { a: x, b: y }),
    say: () => `x ${say(fig.state.a)}, y ${say(fig.state.b)}`,
  });
  map.anywhere();
  const power = (v) => Number((10 ** v).toPrecision(3));
  fig.slider({
    key: "h", label: "fixed learning rate", min: -3.5, max: -0.5, step: 0.05, start: -1.6,
    say: (v) => String(power(v)),
  });
  fig.slider({
    key: "p", label: "DAL's power p (numerator 2)", min: 0.3, max: 1, step: 0.05, start: 1, say: (v) => say(v),
  });
  fig.slider({
    key: "u", label: "the loss is multiplied by", min: -2, max: 2, step: 0.25, start: 0,
    say: (v) => String(power(v)),
  });
  fig.legend([
    { model: "GD", name: "fixed rate" }, { model: DAL, name: "DAL" }, { model: ADAEOS, name: "AdaEoS (on SGD)" },
    { model: "edge", name: "edge", mark: "dashed" },
  ]);
  fig.draw = function () {
    const { a, b, h, p, u } = fig.state;
    const E = real(shape, 10 ** u), start = [a, b];
    const first = E.value(start);
    map.contours("E", shape.value, [0.05, 0.3, 1, 2.5, 5, 9, 15, 25, 40]);
    edge.rule(2, { model: "edge", dash: "5 4", width: 2 }, true);
    const runs = [
      ["The fixed rate", "GD", fixed(E, start, STEPS, 10 ** h)],
      ["DAL", DAL, dal(E, start, STEPS, p, 2)],
      ["AdaEoS", ADAEOS, adaeos(E, start, STEPS, 0.8)],
    ];
    const words = runs.map(([name, model, { points, rates, lost }]) => {
      map.line(points, { model, width: 1.6 });
      map.dots(points, { model, r: 2.2 });
      const seen = points.map((q, k) => [k, E.value(q) / first]);
      losses.line(seen, { model });
      edge.line(rates.map((rate, k) => [k, rate * E.sharpness(points[k])]), { model });
      const last = seen[seen.length - 1][1];
      return lost ? `${name} is lost after ${points.length} steps` :
        `${name} ends at ${last > 10 ? "over ten times" : last.toPrecision(2) + " of"} the first loss`;
    });
    fig.seen(`Loss times ${power(u)}. ${words.join("; ")}.`);
  };
});
