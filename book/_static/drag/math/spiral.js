// The principal flow of E = ½z² + ¼c z⁴ at complex z, and gradient descent there; a state is
// [Re z, Im z]. No DOM here.
(function (root) {
  "use strict";
  const G = (root.gdflows = root.gdflows || {});
  const mul = (a, b) => [a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]];

  function grad(c, z) {
    const cubed = mul(z, mul(z, z));
    return [z[0] + c * cubed[0], z[1] + c * cubed[1]];
  }

  function curvature(c, z) {
    const squared = mul(z, z);
    return [1 + 3 * c * squared[0], 3 * c * squared[1]];
  }

  function field(c, h) {
    return (z) => {
      const x = curvature(c, z).map((part) => h * part);
      return mul(G.math.plane.alpha(x), grad(c, z));
    };
  }

  function descend(c, h, z, steps) {
    const found = [z];
    for (let k = 0; k < steps; k++) {
      const g = grad(c, z);
      found.push((z = [z[0] - h * g[0], z[1] - h * g[1]]));
    }
    return found;
  }

  function follow(c, h, z, steps, fine, options) {
    const times = [...Array(steps * fine + 1).keys()].map((k) => (k * h) / fine);
    return G.math.ode.solve(field(c, h), z, times, options);
  }

  G.math = G.math || {};
  G.math.spiral = { field, descend, follow };
})(globalThis);
