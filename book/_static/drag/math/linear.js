// Gradient descent and its flows along one eigenvector of the Hessian, x = hλ: coefficients,
// multipliers, and the solutions on a parabola. Complex numbers are pairs [re, im]. No DOM here.
(function (root) {
  "use strict";
  const G = (root.gdflows = root.gdflows || {});
  const SINGULAR = 1e-12;

  // log(1 − x) for real x: real below 1, log(x − 1) + iπ above
  function logMultiplier(x) {
    if (Math.abs(1 - x) <= SINGULAR) return [-Infinity, 0];
    return x < 1 ? [Math.log1p(-x), 0] : [Math.log(x - 1), Math.PI];
  }

  // the coefficient α(x) of a flow: "NGF", "IGR", "PF", or n for the series cut off after h^n
  function alpha(x, model) {
    if (model === "PF") {
      if (x === 0) return [-1, 0];
      const [re, im] = logMultiplier(x);
      return [re / x, im / x];
    }
    const order = { NGF: 0, IGR: 1 }[model] ?? model;
    let sum = 0;
    for (let p = order; p >= 0; p--) sum = sum * x - 1 / (p + 1);
    return [sum, 0];
  }

  // what a flow multiplies the distance from the bottom by in k steps; k need not be whole
  function multiplier(x, model, k) {
    if (model === "GD") return [(1 - x) ** k, 0];
    if (x === 0) return [1, 0];
    const [re, im] = alpha(x, model).map((part) => part * x * k);
    const size = Math.exp(re);
    return [size * Math.cos(im), size * Math.sin(im)];
  }

  // as many steps as asked for, `fine` points a step: [k, re, im] each
  function path(x, model, steps, fine) {
    const found = [];
    for (let j = 0; j <= steps * fine; j++) found.push([j / fine, ...multiplier(x, model, j / fine)]);
    return found;
  }

  G.math = G.math || {};
  G.math.linear = { alpha, multiplier, path };
})(globalThis);
