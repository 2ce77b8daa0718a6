// Title: What each flow does along an eigenvector
// Needs: linear
gdflows.figure("multipliers", function (fig) {
  "use strict";
  const { alpha, multiplier } = gdflows.math.linear;
  const say = gdflows.say;
  const MODELS = [["NGF", "NGF"], ["IGR", "IGR"], [2, "order 2"], [3, "order 3"], ["PF", "PF"]];
  const LOW = -3, HIGH = 3.5;
  fig.try("drag the ring along hλ: a saddle's direction on the left of 0, a minimum that is " +
    "sharper than 2/h on the right of 2. Which flows agree with gradient descent on who leaves?");
  fig.value("x", 1.5, LOW, HIGH);
  const rate = fig.plot({
    name: "The coefficient alpha of each flow against h lambda",
    x: [LOW, HIGH], y: [-4.5, 3.6], xlabel: "hλ", ylabel: "α(hλ), dashed: imaginary part",
  });
  const step = fig.plot({
    name: "What one step multiplies a small distance by, against h lambda, logarithmic",
    x: [LOW, HIGH], y: [0.01, 100], log: true, xlabel: "hλ", ylabel: "size of one step's multiplier",
  });
  rate.handle({
    label: "hλ",
    axis: "x",
    at: () => [fig.state.x, 0],
    move: (x) => (fig.state.x = x),
    say: () => `hλ = ${say(fig.state.x)}`,
  });
  rate.anywhere();
  fig.slider({
    key: "x", label: "hλ, learning rate times curvature", min: LOW, max: HIGH, step: 0.01,
    start: 1.5, say: (v) => say(v),
  });
  fig.legend([
    { model: "GD", mark: "dots" }, ...MODELS.map(([, name]) => ({ model: name })),
    { model: "PF", name: "PF, imaginary part", mark: "dashed" },
  ]);
  const size = ([re, im]) => Math.hypot(re, im);
  const grid = [];
  for (let k = 0; k <= 650; k++) grid.push(LOW + k * 0.01 + 1e-6);

  fig.draw = function () {
    const { x } = fig.state;
    step.band(LOW, 0, { model: "PF", opacity: 0.08 });
    step.band(2, HIGH, { model: "PF", opacity: 0.08 });
    step.rule(1, {}, true);
    rate.rule(0, {}, true);
    for (const [model, name] of MODELS) {
      rate.line(grid.map((u) => [u, alpha(u, model)[0]]), { model: name });
      step.line(grid.map((u) => [u, size(multiplier(u, model, 1))]), { model: name });
      rate.dots([[x, alpha(x, model)[0]]], { model: name, r: 4 });
      step.dots([[x, size(multiplier(x, model, 1))]], { model: name, r: 4 });
    }
    rate.line(grid.map((u) => [u, alpha(u, "PF")[1]]), { model: "PF", dash: "5 4" });
    step.dots([[x, Math.abs(1 - x)]], { model: "GD", r: 6, hollow: true });
    rate.rule(x, { dash: "2 3" });
    step.rule(x, { dash: "2 3" });
    step.text(-1.5, 45, "repels");
    step.text(1, 45, "attracts");
    step.text(2.75, 45, "repels");
    const leaves = Math.abs(1 - x) > 1;
    const others = MODELS.slice(0, 4);
    const wrong = others.filter(([m]) => (size(multiplier(x, m, 1)) > 1) !== leaves).map(([, n]) => n);
    const [re, im] = alpha(x, "PF");
    const values = Math.abs(x - 1) < 1e-9 ? "infinite" :
      `${say(re)}${im ? ` + ${say(im)} i` : ""}`;
    fig.seen(
      `hλ = ${say(x)}, PF's α is ${values}. Gradient descent multiplies by ${say(1 - x)} and ` +
      `${leaves ? "leaves" : "stays"}; so does the principal flow. ` +
      (wrong.length ? `${wrong.join(", ")} would ${leaves ? "come to rest here" : "leave"}.`
        : `All the others ${leaves ? "leave" : "stay"} too${x > 1 && !leaves ? ", without changing sides" : ""}.`),
    );
  };
});
