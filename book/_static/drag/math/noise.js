// SGD on a parabola of curvature 1 whose gradient's noise comes from eight samples, one of them far
// off; its exact moments, and the laws of its stochastic modified equations. No DOM here.
(function (root) {
  "use strict";
  const G = (root.gdflows = root.gdflows || {});
  // the samples' minima: mean 0, variance 1, seven together and one far off
  const SAMPLES = [-1, -1, -1, -1, -1, -1, -1, 7].map((x) => x / Math.sqrt(7));

  // Uniform numbers in [0, 1) from a seed: Mulberry32, a counter and a mixing of 32 bits.
  function generator(seed) {
    let state = seed >>> 0;
    return () => {
      state = (state + 0x6d2b79f5) >>> 0;
      let z = state;
      z = Math.imul(z ^ (z >>> 15), z | 1);
      z ^= z + Math.imul(z ^ (z >>> 7), z | 61);
      return ((z ^ (z >>> 14)) >>> 0) / 4294967296;
    };
  }

  // normal numbers, by Box and Muller
  function normals(uniform) {
    let spare = null;
    return () => {
      if (spare !== null) {
        const kept = spare;
        spare = null;
        return kept;
      }
      const r = Math.sqrt(-2 * Math.log(1 - uniform())), angle = 2 * Math.PI * uniform();
      spare = r * Math.sin(angle);
      return r * Math.cos(angle);
    };
  }

  // θ after k steps of SGD with batches of B, drawn with replacement
  function run(h, B, start, steps, uniform) {
    let theta = start;
    for (let k = 0; k < steps; k++) {
      let sum = 0;
      for (let b = 0; b < B; b++) sum += SAMPLES[Math.floor(8 * uniform())];
      theta -= h * (theta - sum / B);
    }
    return theta;
  }

  // mean and variance of that, exactly
  function moments(h, B, start, steps) {
    const m = 1 - h;
    const spread = m * m === 1 ? steps : (1 - m ** (2 * steps)) / (1 - m * m);
    return [m ** steps * start, ((h * h) / B) * spread];
  }

  // mean and variance of the equation of weak order 1 or 2 at the same time
  function equation(h, B, start, steps, order) {
    const rate = order === 1 ? 1 : 1 + h / 2, t = steps * h;
    return [Math.exp(-rate * t) * start, (h / B / (2 * rate)) * -Math.expm1(-2 * rate * t)];
  }

  G.math = G.math || {};
  G.math.noise = { SAMPLES, generator, normals, run, moments, equation };
})(globalThis);
