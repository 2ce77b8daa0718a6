// Level sets of a function of two variables. No DOM here.
(function (root) {
  "use strict";
  const G = (root.gdflows = root.gdflows || {});

  // Level sets by marching squares on n × n cells: for each level a list of two-point pieces.
  function contours(f, [x0, x1], [y0, y1], levels, n) {
    const xs = [...Array(n + 1).keys()].map((k) => x0 + ((x1 - x0) * k) / n);
    const ys = [...Array(n + 1).keys()].map((k) => y0 + ((y1 - y0) * k) / n);
    const values = ys.map((y) => xs.map((x) => f(x, y)));
    return levels.map((level) => {
      const pieces = [];
      for (let j = 0; j < n; j++) {
        for (let i = 0; i < n; i++) {
          const corners = [[i, j], [i + 1, j], [i + 1, j + 1], [i, j + 1]];
          const crossings = [];
          corners.forEach(([a, b], k) => {
            const [c, d] = corners[(k + 1) % 4];
            const [p, q] = [values[b][a] - level, values[d][c] - level];
            if (p < 0 === q < 0) return;
            const s = p / (p - q);
            crossings.push([xs[a] + s * (xs[c] - xs[a]), ys[b] + s * (ys[d] - ys[b])]);
          });
          for (let k = 0; k + 1 < crossings.length; k += 2) {
            pieces.push([crossings[k], crossings[k + 1]]);
          }
        }
      }
      return pieces;
    });
  }

  G.contours = contours;
})(globalThis);
