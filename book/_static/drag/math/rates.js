// Learning rates that look at the curvature, on a loss of two variables: DAL, and AdaEoS on plain
// gradient descent (see gdflows.optim for where its constants come from). No DOM here.
(function (root) {
  "use strict";
  const G = (root.gdflows = root.gdflows || {});
  const norm = ([a, b]) => Math.hypot(a, b);
  const EDGE = 2, HALF = 10, WHOLE = 20;

  // `unit` times a loss of plane.js, at real points
  function real(loss, unit) {
    const at = (p) => [[p[0], 0], [p[1], 0]];
    const scaled = (entries) => entries.map((e) => unit * e[0]);
    return {
      value: (p) => unit * loss.value(...p),
      grad: (p) => scaled(loss.grad(at(p))),
      product(p, [v, w]) {
        const [a, b, c] = scaled(loss.hessian(at(p)));
        return [a * v + b * w, b * v + c * w];
      },
      sharpness: (p) => unit * G.math.plane.sharpness(loss, ...p),
    };
  }

  // what any method leaves behind: the points, and the rate of each step
  function walk(E, start, steps, step) {
    let point = start.slice();
    const points = [point], rates = [];
    for (let k = 0; k < steps; k++) {
      const [next, rate] = step(point);
      if (!next || !(norm(next) < 1e6)) return { points, rates, lost: true };
      points.push((point = next));
      rates.push(rate);
    }
    return { points, rates, lost: false };
  }

  const moved = (p, g, rate) => [p[0] - rate * g[0], p[1] - rate * g[1]];

  function fixed(E, start, steps, h) {
    return walk(E, start, steps, (p) => [moved(p, E.grad(p), h), h]);
  }

  // h = c / |H ĝ|^p
  function dal(E, start, steps, power, c) {
    return walk(E, start, steps, (p) => {
      const g = E.grad(p), length = norm(g);
      if (length === 0) return [p, NaN];
      const rate = c / norm(E.product(p, g.map((v) => v / length))) ** power;
      return [moved(p, g, rate), rate];
    });
  }

  function adaeos(E, start, steps, rho) {
    const s = {
      eta: NaN, sharpness: NaN, average: NaN, count: 0, wait: 0, gap: HALF, row: 0,
      climbing: true, size: NaN, kept: null, q: null,
    };

    function goBack() {
      s.row += 1;
      if (s.row > 20 || Number.isNaN(s.eta)) return [null, s.eta];
      s.eta /= 4;
      [s.gap, s.wait] = [HALF, 2];
      return [s.kept, s.eta];
    }

    function first(value, g) { // no curvature is known yet
      const length = norm(g), slope = length * length;
      s.eta = Infinity;
      if (length > 0 && s.size > 0) s.eta = Math.min(s.eta, (0.3 * s.size) / length);
      if (slope > 0 && value > 0) s.eta = Math.min(s.eta, value / slope);
      if (s.eta === Infinity) s.eta = 0;
    }

    function largest(p, g) { // power iteration, its vector kept
      let q = s.q || g.map((v) => v / norm(g)), found = 0;
      for (let k = 0; k < (s.q ? 1 : 2); k++) {
        q = E.product(p, q);
        found = norm(q);
        if (!(found > 0 && Number.isFinite(found))) return 0;
        q = q.map((v) => v / found);
      }
      s.q = q;
      return found;
    }

    function refresh(p, g, value) {
      const before = s.sharpness, climbing = s.climbing;
      const found = (s.sharpness = largest(p, g));
      if (s.eta === 0 && found > 0) s.eta = (rho * EDGE) / found;
      const r = found > 0 ? (rho * EDGE) / (found * s.eta) : Infinity;
      if (r < 1) s.eta *= Math.max(r, 0.1);
      else if (value <= s.average) s.eta *= climbing ? Math.min(r, 10) : Math.min(r ** 0.1, 1.3);
      s.climbing = climbing && r > 1.5;
      if (s.climbing) {
        s.wait = 2;
        return;
      }
      if (Number.isFinite(before) && found > 1.5 * before) s.gap = HALF;
      [s.wait, s.gap] = [s.gap, WHOLE];
    }

    return walk(E, start, steps, (p) => {
      const value = E.value(p), g = E.grad(p);
      const blind = s.count < 3, looking = s.wait <= 0 && !blind;
      const high = s.average > 0 && value > 50 * s.average;
      if (!Number.isFinite(value) || high || !g.every(Number.isFinite)) return goBack();
      if (blind && norm(g) === 0) return [p, s.eta];
      if (s.average > 0 && value > 2 * s.average) {
        s.eta /= 2;
        [s.gap, s.wait, s.climbing] = [HALF, 0, false];
      }
      if (!(s.average > 0)) s.average = value;
      s.average = 0.9 * s.average + 0.1 * value;
      s.count += 1;
      if (blind || looking) [s.row, s.size, s.kept] = [0, norm(p), p];
      if (blind) first(value, g);
      if (looking) refresh(p, g, value);
      s.wait -= 1;
      const longest = 0.4 * s.size, length = s.eta * norm(g);
      const hold = !blind && length > longest && longest > 0 ? longest / length : 1;
      return [moved(p, g, hold * s.eta), hold * s.eta];
    });
  }

  G.math = G.math || {};
  G.math.rates = { real, fixed, dal, adaeos };
})(globalThis);
