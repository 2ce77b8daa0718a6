// A solver for ordinary differential equations: Dormand and Prince's pair of orders 5 and 4 with
// steps of adaptive length. A state is a list of real numbers. No DOM here.
(function (root) {
  "use strict";
  const G = (root.gdflows = root.gdflows || {});
  const A = [
    [],
    [1 / 5],
    [3 / 40, 9 / 40],
    [44 / 45, -56 / 15, 32 / 9],
    [19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729],
    [9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656],
    [35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84],
  ];
  const ERROR = [71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40];

  function add(y, stages, weights, step) {
    return y.map((value, i) => {
      let sum = 0;
      for (let k = 0; k < weights.length; k++) if (weights[k]) sum += weights[k] * stages[k][i];
      return value + step * sum;
    });
  }

  // The states at `times` (the first is the start's). It ends early where the state or the field
  // is no number, grows past `runaway`, or more than `most` evaluations were needed; `ended` then
  // says where (time and state), else it is null.
  function solve(field, start, times, { rtol = 1e-7, atol = rtol, most = 20000, runaway = 1e6 } = {}) {
    let y = start.slice(), t = times[0], used = 1;
    let slope = field(y);
    const states = [y];
    const fine = (v) => v.every((x) => Math.abs(x) < runaway);
    let step = 0.01 * (times[times.length - 1] - t);
    for (let n = 1; n < times.length; n++) {
      while (t < times[n]) {
        const last = t + step * (1 + 1e-9) >= times[n];
        const dt = last ? times[n] - t : step;
        const stages = [slope];
        for (let k = 1; k < 7; k++) stages.push(field(add(y, stages, A[k], dt)));
        used += 6;
        const next = add(y, stages, A[6], dt);
        const off = ERROR.reduce(
          (sum, w, k) => sum.map((s, i) => s + w * dt * stages[k][i]), y.map(() => 0));
        let size = 0;
        off.forEach((e, i) => {
          size += (e / (atol + rtol * Math.max(Math.abs(y[i]), Math.abs(next[i])))) ** 2;
        });
        size = Math.sqrt(size / y.length);
        const good = Number.isFinite(size) && next.every(Number.isFinite);
        const factor = good ? Math.min(5, Math.max(0.2, 0.9 * (size || 1e-10) ** -0.2)) : 0.1;
        if (good && size <= 1) {
          t = last ? times[n] : t + dt;
          y = next;
          slope = stages[6];
          if (!fine(y)) return { states, ended: { time: t, state: y } };
          step = last ? Math.max(step, dt * factor) : dt * factor; // cut short only to meet a time
        } else {
          step = dt * factor;
        }
        if (used > most || step < 1e-13 * Math.max(Math.abs(t), 1e-30)) {
          return { states, ended: { time: t, state: y } };
        }
      }
      states.push(y);
    }
    return { states, ended: null };
  }

  G.math = G.math || {};
  G.math.ode = { solve };
})(globalThis);
