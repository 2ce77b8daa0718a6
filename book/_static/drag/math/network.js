// A small network x ↦ Σ vⱼ tanh(wⱼ x + bⱼ) + c with the mean squared error: loss, gradient, Hessian
// and its eigenvectors, and gradient descent. Parameters in one list: w, b, v, c. No DOM here.
(function (root) {
  "use strict";
  const G = (root.gdflows = root.gdflows || {});
  const width = (theta) => (theta.length - 1) / 3;

  function output(theta, x) {
    const n = width(theta);
    let sum = theta[3 * n];
    for (let j = 0; j < n; j++) sum += theta[2 * n + j] * Math.tanh(theta[j] * x + theta[n + j]);
    return sum;
  }

  function loss(theta, data) {
    let sum = 0;
    for (const [x, y] of data) sum += (output(theta, x) - y) ** 2;
    return sum / data.length;
  }

  function grad(theta, data) {
    const n = width(theta), out = new Array(theta.length).fill(0);
    for (const [x, y] of data) {
      const r = (2 * (output(theta, x) - y)) / data.length;
      for (let j = 0; j < n; j++) {
        const a = Math.tanh(theta[j] * x + theta[n + j]);
        const inner = r * theta[2 * n + j] * (1 - a * a);
        out[j] += inner * x;
        out[n + j] += inner;
        out[2 * n + j] += r * a;
      }
      out[3 * n] += r;
    }
    return out;
  }

  // the Hessian times u: the derivative of grad along u
  function product(theta, data, u) {
    const n = width(theta), out = new Array(theta.length).fill(0);
    for (const [x, y] of data) {
      const r = (2 * (output(theta, x) - y)) / data.length;
      const a = [], da = [];
      let df = u[3 * n];
      for (let j = 0; j < n; j++) {
        a[j] = Math.tanh(theta[j] * x + theta[n + j]);
        da[j] = (1 - a[j] * a[j]) * (u[j] * x + u[n + j]);
        df += u[2 * n + j] * a[j] + theta[2 * n + j] * da[j];
      }
      const dr = (2 * df) / data.length;
      for (let j = 0; j < n; j++) {
        const open = 1 - a[j] * a[j], v = theta[2 * n + j];
        const inner = dr * v * open + r * u[2 * n + j] * open - 2 * r * v * a[j] * da[j];
        out[j] += inner * x;
        out[n + j] += inner;
        out[2 * n + j] += dr * a[j] + r * da[j];
      }
      out[3 * n] += dr;
    }
    return out;
  }

  function hessian(theta, data) {
    return theta.map((_, k) => product(theta, data, theta.map((__, i) => (i === k ? 1 : 0))));
  }

  // the largest eigenvalue of a symmetric matrix and its eigenvector, by Jacobi's rotations
  function top(matrix) {
    const A = matrix.map((row) => row.slice()), n = A.length;
    const V = A.map((_, i) => A.map((__, j) => (i === j ? 1 : 0)));
    for (let sweep = 0; sweep < 40; sweep++) {
      let off = 0, all = 0;
      A.forEach((row, i) => row.forEach((v, j) => {
        all += v * v;
        if (i !== j) off += v * v;
      }));
      if (off <= 1e-26 * all) break;
      for (let p = 0; p < n; p++) {
        for (let q = p + 1; q < n; q++) {
          if (A[p][q] === 0) continue;
          const t0 = (A[q][q] - A[p][p]) / (2 * A[p][q]);
          const t = (t0 < 0 ? -1 : 1) / (Math.abs(t0) + Math.hypot(t0, 1));
          const c = 1 / Math.hypot(t, 1), s = t * c;
          for (let k = 0; k < n; k++) {
            [A[k][p], A[k][q]] = [c * A[k][p] - s * A[k][q], s * A[k][p] + c * A[k][q]];
            [V[k][p], V[k][q]] = [c * V[k][p] - s * V[k][q], s * V[k][p] + c * V[k][q]];
          }
          for (let k = 0; k < n; k++) {
            [A[p][k], A[q][k]] = [c * A[p][k] - s * A[q][k], s * A[p][k] + c * A[q][k]];
          }
        }
      }
    }
    let best = 0;
    for (let k = 1; k < n; k++) if (A[k][k] > A[best][best]) best = k;
    return { value: A[best][best], vector: V.map((row) => row[best]) };
  }

  function step(theta, data, h) {
    const g = grad(theta, data);
    return theta.map((value, k) => value - h * g[k]);
  }

  // half the distance of two iterates along u, and the point between them
  function rod(theta, next, u) {
    return {
      centre: theta.map((value, k) => (value + next[k]) / 2),
      half: theta.reduce((sum, value, k) => sum + ((value - next[k]) / 2) * u[k], 0),
    };
  }

  // a start drawn from a seed
  function start(n, seed) {
    const normal = G.math.noise.normals(G.math.noise.generator(seed));
    const draw = (count, size) => [...Array(count)].map(() => size * normal());
    return [...draw(n, 2), ...draw(n, 1), ...draw(n, 1 / Math.sqrt(n)), 0];
  }

  G.math = G.math || {};
  G.math.network = { output, loss, grad, product, hessian, top, step, rod, start };
})(globalThis);
