// Flows on losses of two variables, at complex points too: NGF, IGR, order 2, the principal flow
// and the same with its term of order 2. A state is [Re x, Im x, Re y, Im y]. No DOM here.
(function (root) {
  "use strict";
  const G = (root.gdflows = root.gdflows || {});
  const add = (a, b) => [a[0] + b[0], a[1] + b[1]];
  const sub = (a, b) => [a[0] - b[0], a[1] - b[1]];
  const mul = (a, b) => [a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]];
  const scale = (s, a) => [s * a[0], s * a[1]];
  const size = (a) => Math.hypot(a[0], a[1]);

  function div(a, b) {
    const n = b[0] * b[0] + b[1] * b[1];
    return [(a[0] * b[0] + a[1] * b[1]) / n, (a[1] * b[0] - a[0] * b[1]) / n];
  }

  function sqrt(a) {
    const r = size(a);
    const re = Math.sqrt((r + Math.abs(a[0])) / 2);
    if (re === 0) return [0, 0];
    return a[0] >= 0 ? [re, a[1] / (2 * re)] : [Math.abs(a[1]) / (2 * re), a[1] < 0 ? -re : re];
  }

  // log(1 − x), its cut turned away from the real axis to x = 1 + is, s > 0
  function logMultiplier(x) {
    const z = [1 - x[0], -x[1]];
    if (size(x) < 0.5) {
      return [0.5 * Math.log1p(-2 * x[0] + x[0] * x[0] + x[1] * x[1]), Math.atan2(z[1], z[0])];
    }
    return [Math.log(size(z)), Math.atan2(-z[0], z[1]) + Math.PI / 2];
  }

  function alpha(x) {
    return x[0] === 0 && x[1] === 0 ? [-1, 0] : div(logMultiplier(x), x);
  }

  // its derivative, for eigenvalues that coincide
  function slope(x) {
    if (size(x) < 1e-4) return sub([-1 / 2, 0], scale(2 / 3, x));
    return div(sub(div([-1, 0], sub([1, 0], x)), alpha(x)), x);
  }

  function eigenvalues([p, q, r]) {
    const middle = scale(0.5, add(p, r)), half = scale(0.5, sub(p, r));
    const root = sqrt(add(mul(half, half), mul(q, q)));
    return [add(middle, root), sub(middle, root)];
  }

  // α(H) g for the symmetric matrix H = [p, q; q, r], by Newton's form of the interpolation
  function applied(h, [p, q, r], g) {
    const H = [p, q, r].map((entry) => scale(h, entry));
    const [one, two] = eigenvalues(H);
    const gap = sub(one, two);
    const close = size(gap) < 1e-6 * (1 + size(one));
    const rate = close ? slope(scale(0.5, add(one, two))) : div(sub(alpha(one), alpha(two)), gap);
    const first = alpha(one);
    const rest = [
      add(mul(sub(H[0], one), g[0]), mul(H[1], g[1])),
      add(mul(H[1], g[0]), mul(sub(H[2], one), g[1])),
    ];
    return g.map((value, i) => add(mul(first, value), mul(rate, rest[i])));
  }

  // E = (1 − x)² + b (y − x²)²: value, gradient, Hessian, and the third derivative on (v, v)
  function banana(b) {
    return {
      value: (x, y) => (1 - x) ** 2 + b * (y - x * x) ** 2,
      grad([x, y]) {
        const bent = sub(y, mul(x, x));
        return [
          add(scale(-2, sub([1, 0], x)), scale(-4 * b, mul(x, bent))),
          scale(2 * b, bent),
        ];
      },
      hessian([x, y]) {
        const xx = mul(x, x);
        return [
          add([2, 0], sub(scale(12 * b, xx), scale(4 * b, y))), scale(-4 * b, x), [2 * b, 0],
        ];
      },
      third([x], [v, w]) {
        return [
          sub(scale(24 * b, mul(x, mul(v, v))), scale(8 * b, mul(v, w))),
          scale(-4 * b, mul(v, v)),
        ];
      },
    };
  }

  function times([p, q, r], [v, w]) {
    return [add(mul(p, v), mul(q, w)), add(mul(q, v), mul(r, w))];
  }

  // the vector field of a flow
  function field(loss, h, model) {
    return ([a, b, c, d]) => {
      const point = [[a, b], [c, d]];
      const g = loss.grad(point), H = loss.hessian(point);
      let rate;
      if (model === "PF" || model === "PF + term") {
        rate = applied(h, H, g);
      } else {
        rate = g.map((value) => scale(-1, value));
        if (model !== "NGF") {
          const Hg = times(H, g);
          rate = rate.map((value, i) => sub(value, scale(h / 2, Hg[i])));
          if (model === "order 2") {
            const HHg = times(H, Hg);
            rate = rate.map((value, i) => sub(value, scale((h * h) / 3, HHg[i])));
          }
        }
      }
      if (model === "PF + term" || model === "order 2") {
        const term = loss.third(point, g);
        rate = rate.map((value, i) => sub(value, scale((h * h) / 12, term[i])));
      }
      return rate.flat();
    };
  }

  function descend(loss, h, x, y, steps) {
    const found = [[x, y]];
    for (let k = 0; k < steps; k++) {
      const [gx, gy] = loss.grad([[x, 0], [y, 0]]);
      [x, y] = [x - h * gx[0], y - h * gy[0]];
      found.push([x, y]);
    }
    return found;
  }

  // Along a flow from a real point, `fine` points a step; `solve` is that of ode.js.
  function follow(loss, h, model, x, y, steps, fine, options) {
    const ts = [...Array(steps * fine + 1).keys()].map((k) => (k * h) / fine);
    return G.math.ode.solve(field(loss, h, model), [x, 0, y, 0], ts, options);
  }

  function sharpness(loss, x, y) {
    return eigenvalues(loss.hessian([[x, 0], [y, 0]]))[0][0];
  }

  // whether an eigenvalue of the Hessian at a state has run onto the logarithm's cut
  function onCut(loss, h, [a, b, c, d]) {
    return eigenvalues(loss.hessian([[a, b], [c, d]])).map((value) => scale(h, value))
      .some((x) => Math.abs(x[0] - 1) < 0.02 * size(x) && x[1] > 0.01);
  }

  G.math = G.math || {};
  G.math.plane = { alpha, banana, field, descend, follow, sharpness, onCut };
})(globalThis);
