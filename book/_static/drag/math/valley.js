// The valley E = ½ y x² + ½ κ (y − y*)² with noise on the slope in x: gradient descent on it, the
// gradient flow, the stochastic rod on its floor x = 0, and where that comes to rest. No DOM here.
(function (root) {
  "use strict";
  const G = (root.gdflows = root.gdflows || {});
  const FASTEST = 2.5; // no mean square shrinks by more than this power of e in a step

  const value = (v, x, y) => (y * x * x + v.kappa * (y - v.top) ** 2) / 2;
  const grad = (v, x, y) => [y * x, (x * x) / 2 + v.kappa * (y - v.top)];

  // `steps` steps from (x, y); `normal` draws the noise of deviation s, or there is none
  function walk(v, h, s, x, y, steps, normal) {
    const found = [[x, y]];
    for (let k = 0; k < steps; k++) {
      const [gx, gy] = grad(v, x, y);
      const noise = s ? s * normal() : 0;
      [x, y] = [x - h * (gx + noise), y - h * gy];
      found.push([x, y]);
    }
    return found;
  }

  // the gradient flow at the times of the steps
  function glide(v, h, x, y, steps, options) {
    const times = [...Array(steps + 1).keys()].map((k) => k * h);
    return G.math.ode.solve((p) => grad(v, ...p).map((slope) => -slope), [x, y], times, options).states;
  }

  // time derivatives of the centre's height y and of the swing's mean square q
  function rod(v, h, s, [y, q]) {
    const m = (1 - h * y) ** 2;
    let log = Math.log(Math.max(m, Math.exp(-FASTEST)));
    const near = Math.abs(m - 1) < 1e-9;
    if (near) log = -1e-9;
    const settled = near ? 1e9 : 1 / (1 - m);
    return [-(q / 2 + v.kappa * (y - v.top)), (log / h) * (q - h * h * s * s * settled)];
  }

  // along the rod's flow by the classical method of order 4, a step of length h each
  function follow(v, h, s, y, q, steps) {
    const add = (a, b, t) => [a[0] + t * b[0], a[1] + t * b[1]];
    let at = [y, q];
    const found = [at];
    for (let k = 0; k < steps; k++) {
      const a = rod(v, h, s, at), b = rod(v, h, s, add(at, a, h / 2));
      const c = rod(v, h, s, add(at, b, h / 2)), d = rod(v, h, s, add(at, c, h));
      at = at.map((value, i) => value + (h / 6) * (a[i] + 2 * b[i] + 2 * c[i] + d[i]));
      found.push(at);
    }
    return found;
  }

  // The height at which the rod rests, 2κ(y* − y) y (2 − hy) = h s²: the root below 2/h that is
  // nearest to it; NaN where there is none.
  function rest(v, h, s) {
    const left = (y) => 2 * v.kappa * (v.top - y) * y * (2 - h * y) - h * s * s;
    const edge = Math.min(2 / h, v.top);
    if (s === 0) return edge;
    let low = edge;
    while (left(low) < 0) {
      low -= edge / 400;
      if (low <= 0) return NaN;
    }
    let high = Math.min(edge, low + edge / 400);
    for (let k = 0; k < 100; k++) {
      const middle = (low + high) / 2;
      if (left(middle) < 0) high = middle;
      else low = middle;
    }
    return low;
  }

  G.math = G.math || {};
  G.math.valley = { value, grad, walk, glide, rod, follow, rest };
})(globalThis);
