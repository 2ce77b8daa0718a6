// Colours: those of gdflows.plotting.COLOURS (colours.js, written when the pages are built), moved
// in lightness as far as the ground asks for and no further. No DOM here.
(function (root) {
  "use strict";
  const G = (root.gdflows = root.gdflows || {});

  function channels(hex) {
    return [1, 3, 5].map((k) => parseInt(hex.slice(k, k + 2), 16));
  }

  function hex(rgb) {
    return "#" + rgb.map((c) => Math.round(c).toString(16).padStart(2, "0")).join("");
  }

  // relative luminance and contrast, as WCAG 2.2 defines them
  function luminance(colour) {
    const [r, g, b] = channels(colour).map((c) => {
      const s = c / 255;
      return s <= 0.04045 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  }

  function contrast(one, other) {
    const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  }

  // `colour`, mixed with black or white until it stands out from `ground` by `ratio`
  function readable(colour, ground, ratio) {
    const target = luminance(ground) > 0.18 ? 0 : 255;
    let out = colour;
    for (let k = 1; contrast(out, ground) < ratio && k <= 50; k++) {
      out = hex(channels(colour).map((c) => c + (target - c) * (k / 50)));
    }
    return out;
  }

  G.colour = { luminance, contrast, readable };
})(globalThis);
