// Title: A bowl, as the learning rate passes 1/λ and 2/λ
// Needs: linear
gdflows.figure("quadratic", function (fig) {
  "use strict";
  const { multiplier } = gdflows.math.linear;
  const say = gdflows.say;
  const MODELS = ["NGF", "IGR", "PF"];
  const STEPS = 12, FLAT = 1, STEEP = 3; // the bowl ½(x² + 3y²)
  fig.try("move the learning rate past 1/λ (hλ = 1), then past 2/λ (hλ = 2), λ the steeper " +
    "curvature; drag the starting point. Which curve still goes through the dots?");
  fig.value("a", 1.6, -1.9, 1.9);
  fig.value("b", 0.8, -1.2, 1.2);
  const bowl = fig.plot({
    name: "The bowl from above: twelve steps of gradient descent and three flows",
    x: [-2, 2], y: [-1.3, 1.3], equal: true, xlabel: "x, curvature 1", ylabel: "y, curvature 3",
  });
  const time = fig.plot({
    name: "The steep coordinate y against the number of steps",
    x: [0, STEPS], y: [-1.3, 1.3], shape: 0.65, xlabel: "step", ylabel: "y",
  });
  bowl.handle({
    label: "Starting point",
    at: () => [fig.state.a, fig.state.b],
    move: (x, y) => Object.assign(fig.state, { a: x, b: y }),
    say: () => `x ${say(fig.state.a)}, y ${say(fig.state.b)}`,
  });
  bowl.anywhere();
  fig.slider({
    key: "x", label: "hλ, learning rate times the steep curvature", min: 0.05, max: 2.3,
    step: 0.01, start: 1.8, say: (v) => say(v),
  });
  fig.legend([{ model: "GD", mark: "dots" }, ...MODELS.map((model) => ({ model })),
  ]);
  fig.draw = function () {
    const { a, b, x } = fig.state;
    const flat = (x * FLAT) / STEEP;
    bowl.contours("bowl", (u, v) => (FLAT * u * u + STEEP * v * v) / 2, [0.05, 0.2, 0.5, 1, 1.7, 2.6, 3.8]);
    time.rule(0, {}, true);
    for (const model of MODELS) {
      const plane = [], steep = [];
      for (let k = 0; k <= STEPS + 1e-9; k += 1 / 24) {
        const y = multiplier(x, model, k)[0] * b;
        plane.push([multiplier(flat, model, k)[0] * a, y]);
        steep.push([k, y]);
      }
      bowl.line(plane, { model });
      time.line(steep, { model });
    }
    const dots = [...Array(STEPS + 1).keys()].map((k) => [k, (1 - flat) ** k * a, (1 - x) ** k * b]);
    bowl.dots(dots.map((d) => [d[1], d[2]]), { model: "GD" });
    time.dots(dots.map((d) => [d[0], d[2]]), { model: "GD" });
    const factor = say(1 - x);
    fig.seen(
      `hλ = ${say(x)}: each step multiplies y by ${factor}. ` + (
        Math.abs(x - 1) < 0.005 ? "Gradient descent is at the bottom in one step; no flow can be, and the principal flow is infinite there."
        : x < 1 ? "Nothing changes sides: all flows slide to the bottom as gradient descent does, the principal flow through every dot."
        : x < 2 ? "Gradient descent changes sides and comes in. The principal flow (its real part is drawn) goes with it; NGF and IGR slide down and know nothing of it."
        : x < 2.005 ? "Gradient descent swings for ever between two heights, and so does the principal flow."
        : "Gradient descent is thrown out, and the principal flow with it. NGF and IGR still come to rest at the bottom."),
    );
  };
});
