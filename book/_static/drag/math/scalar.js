// The modified equation of gradient descent in one dimension, to any order, as polynomials in the
// derivatives of f = −E'. A monomial f^a (f')^b (f'')^c … is the key "a,b,c,…". No DOM here.
(function (root) {
  "use strict";
  const G = (root.gdflows = root.gdflows || {});

  function accumulate(into, from, factor) {
    for (const [key, value] of from) into.set(key, (into.get(key) || 0) + factor * value);
    return into;
  }

  // (f_k) · (g)': the derivative of g along the field f_k, all in terms of f, f', f'', …
  function along(field, g) {
    const slope = new Map();
    for (const [key, value] of g) {
      const powers = key.split(",").map(Number);
      powers.forEach((power, k) => {
        if (!power) return;
        const next = powers.slice();
        next[k] -= 1;
        next[k + 1] = (next[k + 1] || 0) + 1;
        const name = next.join(",");
        slope.set(name, (slope.get(name) || 0) + power * value);
      });
    }
    const out = new Map();
    for (const [key, value] of slope) {
      const powers = key.split(",").map(Number);
      for (const [other, factor] of field) {
        const both = other.split(",").map(Number);
        const sum = [...Array(Math.max(powers.length, both.length)).keys()]
          .map((k) => (powers[k] || 0) + (both[k] || 0)).join(",");
        out.set(sum, (out.get(sum) || 0) + value * factor);
      }
    }
    return out;
  }

  // f_0 = f, f_1, …, f_n of f̃ = Σ hⁿ f_n: the flow for a time h is Euler's step, so that
  // exp(h D) y has no terms beyond h f; D = Σ hʲ f_j ∂. The term of h^(j+1) gives f_j.
  function equation(order) {
    const fields = [new Map([["1", 1]])];
    for (let j = 1; j <= order; j++) {
      // rows[i][m]: all products of i derivatives along f_k, applied to y, that carry h^m beyond hⁱ
      let row = [...fields, new Map()];
      const found = new Map();
      let factorial = 1;
      for (let i = 2; i <= j + 1; i++) {
        factorial *= i;
        const next = [];
        for (let m = 0; m <= j + 1 - i; m++) {
          const sum = new Map();
          for (let k = 0; k <= m; k++) accumulate(sum, along(fields[k], row[m - k]), 1);
          next.push(sum);
        }
        accumulate(found, next[j + 1 - i], -1 / factorial);
        row = next;
      }
      fields.push(found);
    }
    return fields.map((field) =>
      [...field].filter(([, value]) => Math.abs(value) > 1e-14)
        .map(([key, value]) => ({ powers: key.split(",").map(Number), value })));
  }

  // cosh θ − 1, with f = −sinh θ and as many derivatives of it as any order needs
  const cosh = {
    value: (x) => Math.cosh(x) - 1,
    curvature: Math.cosh,
    derivatives(x) {
      const [even, odd] = [-Math.sinh(x), -Math.cosh(x)];
      return [even, odd, even, odd, even, odd, even, odd];
    },
  };

  // f̃ cut off after hⁿ, at x
  function field(terms, loss, h, order) {
    return ([x]) => {
      const f = loss.derivatives(x);
      let sum = 0;
      for (let n = order; n >= 0; n--) {
        let part = 0;
        for (const { powers, value } of terms[n]) {
          let product = value;
          powers.forEach((power, k) => {
            if (power) product *= f[k] ** power;
          });
          part += product;
        }
        sum = sum * h + part;
      }
      return [sum];
    };
  }

  function descend(loss, h, x, steps) {
    const found = [x];
    for (let k = 0; k < steps; k++) found.push((x += h * loss.derivatives(x)[0]));
    return found;
  }

  G.math = G.math || {};
  G.math.scalar = { equation, cosh, field, descend };
})(globalThis);
