// Axes in SVG: lines, dots, bands, contours, words and handles, drawn anew at every change.
// Sizes are in pixels of the page, so that words stay as large on a phone as on a desktop.
(function (root) {
  "use strict";
  const G = (root.gdflows = root.gdflows || {});
  const NS = "http://www.w3.org/2000/svg";
  const MARGIN = { left: 46, right: 12, top: 22, bottom: 38 };
  const FAR = 1e5; // pixels: what lies beyond is drawn there
  let counter = 0;

  function svg(tag, attributes, parent, text) {
    const node = document.createElementNS(NS, tag);
    for (const [key, value] of Object.entries(attributes || {})) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    if (parent) parent.appendChild(node);
    return node;
  }

  function ticks(low, high, count) {
    const raw = (high - low) / count;
    const size = 10 ** Math.floor(Math.log10(raw));
    const step = size * [1, 2, 5, 10].find((m) => m * size >= raw);
    const found = [];
    for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) {
      found.push(k * step);
    }
    return { values: found, digits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9)) };
  }

  // 10ⁿ as one writes it
  function power(n) {
    const plain = { 0: "1", 1: "10", 2: "100", "-1": "0.1", "-2": "0.01" }[n];
    return plain || "10" + String(n).replace(/./g, (c) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[c] || "⁻");
  }

  class Plot {
    // options: name, x and y (ranges), xlabel, ylabel, shape (height over width), equal, log
    constructor(figure, options) {
      Object.assign(this, { shape: 0.72, log: false, equal: false }, options);
      this.figure = figure;
      this.handles = [];
      this.clip = `drag-clip-${++counter}`;
      this.box = document.createElement("div");
      this.box.className = "drag-plot";
      this.svg = svg("svg", { role: "group", "aria-label": this.name }, this.box);
      const defs = svg("defs", {}, this.svg);
      this.window = svg("rect", {}, svg("clipPath", { id: this.clip }, defs));
      this.ground = svg("g", { "aria-hidden": "true" }, this.svg);
      this.drawing = svg("g", { "aria-hidden": "true", "clip-path": `url(#${this.clip})` }, this.svg);
      this.words = svg("g", { "aria-hidden": "true" }, this.svg);
      this.over = svg("g", {}, this.svg);
      this.cache = new Map();
    }

    // ---- from numbers to pixels and back

    place() {
      const width = Math.max(220, this.box.clientWidth || 320);
      this.width = width - MARGIN.left - MARGIN.right;
      const [dx, dy] = [this.x[1] - this.x[0], this.y[1] - this.y[0]];
      this.height = this.equal ? (this.width * dy) / dx : this.width * this.shape;
      const height = this.height + MARGIN.top + MARGIN.bottom;
      for (const [key, value] of Object.entries({ width, height })) {
        this.svg.setAttribute(key, value);
      }
      const frame = { x: MARGIN.left, y: MARGIN.top, width: this.width, height: this.height };
      for (const [key, value] of Object.entries(frame)) this.window.setAttribute(key, value);
    }

    px(x) {
      return MARGIN.left + ((x - this.x[0]) / (this.x[1] - this.x[0])) * this.width;
    }

    py(y) {
      const [low, high] = this.log ? this.y.map(Math.log10) : this.y;
      const value = this.log ? Math.log10(Math.max(y, 1e-300)) : y;
      return MARGIN.top + (1 - (value - low) / (high - low)) * this.height;
    }

    at(event) {
      const frame = this.svg.getBoundingClientRect();
      const u = (event.clientX - frame.left - MARGIN.left) / this.width;
      const v = 1 - (event.clientY - frame.top - MARGIN.top) / this.height;
      const [low, high] = this.log ? this.y.map(Math.log10) : this.y;
      const y = low + v * (high - low);
      return [this.x[0] + u * (this.x[1] - this.x[0]), this.log ? 10 ** y : y];
    }

    // ---- one drawing

    // other ranges, before anything else is drawn
    frame(x, y) {
      Object.assign(this, { x, y });
      this.begin();
    }

    begin() {
      this.place();
      for (const group of [this.ground, this.drawing, this.words]) group.replaceChildren();
      this.axes();
    }

    axes() {
      const bottom = MARGIN.top + this.height;
      const right = MARGIN.left + this.width;
      const mark = (x1, y1, x2, y2) => svg("line", { x1, y1, x2, y2, class: "drag-grid" }, this.ground);
      const word = (x, y, text, anchor) =>
        svg("text", { x, y, "text-anchor": anchor, class: "drag-tick" }, this.ground, text);
      const across = ticks(...this.x, Math.max(3, Math.round(this.width / 70)));
      for (const value of across.values) {
        mark(this.px(value), MARGIN.top, this.px(value), bottom);
        word(this.px(value), bottom + 15, value.toFixed(across.digits).replace("-", "−"), "middle");
      }
      const [low, high] = this.log ? this.y.map(Math.log10) : this.y;
      const count = Math.max(2, Math.round(this.height / 45));
      const up = ticks(low, high, this.log ? Math.min(count, high - low) : count);
      for (const value of up.values) {
        const y = this.py(this.log ? 10 ** value : value);
        mark(MARGIN.left, y, right, y);
        const text = this.log ? power(value) : value.toFixed(up.digits).replace("-", "−");
        word(MARGIN.left - 5, y + 4, text, "end");
      }
      svg("line", { x1: MARGIN.left, y1: bottom, x2: right, y2: bottom, class: "drag-axis" }, this.ground);
      svg("line", { x1: MARGIN.left, y1: MARGIN.top, x2: MARGIN.left, y2: bottom, class: "drag-axis" }, this.ground);
      word(right, bottom + 32, this.xlabel || "", "end").classList.add("drag-label");
      word(4, 13, this.ylabel || "", "start").classList.add("drag-label");
    }

    paint(style) {
      const colour = style.model ? this.figure.ink(style.model) : style.colour || "currentColor";
      return colour;
    }

    path(points) {
      const far = (v) => Math.max(-FAR, Math.min(FAR, v));
      let text = "", pen = "M";
      for (const [x, y] of points) {
        if (!Number.isFinite(x) || !Number.isFinite(y)) {
          pen = "M";
          continue;
        }
        text += `${pen}${far(this.px(x)).toFixed(1)},${far(this.py(y)).toFixed(1)}`;
        pen = "L";
      }
      return text;
    }

    line(points, style) {
      return svg("path", {
        d: this.path(points), fill: "none", stroke: this.paint(style),
        "stroke-width": style.width || 2, "stroke-dasharray": style.dash || "none",
        opacity: style.opacity || 1, "stroke-linejoin": "round",
      }, this.drawing);
    }

    area(points, base, style) {
      const end = [[points[points.length - 1][0], base], [points[0][0], base]];
      return svg("path", {
        d: this.path([...points, ...end]) + "Z", fill: this.paint(style),
        opacity: style.opacity || 0.2, stroke: "none",
      }, this.drawing);
    }

    dots(points, style) {
      for (const [x, y] of points) {
        if (!Number.isFinite(x) || !Number.isFinite(y)) continue;
        const [cx, cy] = [this.px(x), this.py(y)];
        if (Math.abs(cx) > FAR || Math.abs(cy) > FAR) continue;
        svg("circle", {
          cx, cy, r: style.r || 3.5, fill: style.hollow ? "none" : this.paint(style),
          stroke: style.hollow ? this.paint(style) : "none", opacity: style.opacity || 1,
        }, this.drawing);
      }
    }

    cross(x, y, style) {
      const [cx, cy] = [this.px(x), this.py(y)];
      svg("path", {
        d: `M${cx - 5},${cy - 5}l10,10m0,-10l-10,10`, stroke: this.paint(style), fill: "none",
        "stroke-width": 2.5,
      }, this.drawing);
    }

    band(from, to, style) {
      const [a, b] = [this.px(from), this.px(to)];
      svg("rect", {
        x: Math.min(a, b), y: MARGIN.top, width: Math.abs(b - a), height: this.height,
        fill: this.paint(style), opacity: style.opacity || 0.1,
      }, this.drawing);
    }

    rule(value, style, across) {
      const points = across ? [[this.x[0], value], [this.x[1], value]]
        : [[value, this.y[0]], [value, this.y[1]]];
      this.line(points, { width: 1, ...style });
    }

    text(x, y, words, anchor) {
      const at = { x: this.px(x), y: this.py(y), "text-anchor": anchor || "middle", class: "drag-word" };
      svg("text", at, this.words, words);
    }

    // level sets of f, kept under its name: they are computed once
    contours(name, f, levels, style) {
      const key = [name, ...this.x, ...this.y].join(" ");
      if (this.cache.size > 30) this.cache.clear();
      if (!this.cache.has(key)) this.cache.set(key, G.contours(f, this.x, this.y, levels, 72));
      for (const pieces of this.cache.get(key)) {
        const d = pieces.map((piece) => this.path(piece)).join("");
        svg("path", {
          d, fill: "none", class: "drag-contour", opacity: (style || {}).opacity || 1,
        }, this.drawing);
      }
    }

    // ---- handles

    // options: label, at() -> [x, y], move(x, y), say() -> text, axis: "x", "y" or "xy"
    handle(options) {
      const node = svg("g", {
        tabindex: "0", role: "slider", class: "drag-handle", "aria-label": options.label,
        "aria-roledescription": "point to move with the arrow keys",
      }, this.over);
      svg("circle", { r: 22, class: "drag-touch" }, node);
      svg("circle", { r: 8, class: "drag-grip" }, node);
      const axis = options.axis || "xy";
      const first = options.at().slice();
      const move = (x, y) => {
        const keep = options.at();
        const inside = (v, [low, high]) => Math.min(high, Math.max(low, v));
        options.move(axis === "y" ? keep[0] : inside(x, this.x), axis === "x" ? keep[1] : inside(y, this.y));
        this.figure.change();
      };
      const drag = (event) => {
        if (node.hasPointerCapture(event.pointerId)) move(...this.at(event));
      };
      node.addEventListener("pointerdown", (event) => {
        node.setPointerCapture(event.pointerId);
        node.focus({ preventScroll: true });
        event.stopPropagation();
        event.preventDefault();
      });
      node.addEventListener("pointermove", drag);
      node.addEventListener("keydown", (event) => {
        const [x, y] = options.at();
        const share = event.shiftKey ? 0.1 : 0.01;
        const dx = (this.x[1] - this.x[0]) * share, dy = (this.y[1] - this.y[0]) * share;
        const less = [x - dx, y - dy], more = [x + dx, y + dy]; // on one axis all arrows count
        const to = axis === "xy" ? {
          ArrowLeft: [x - dx, y], ArrowRight: [x + dx, y], ArrowUp: [x, y + dy], ArrowDown: [x, y - dy],
          Home: first,
        }[event.key] : {
          ArrowLeft: less, ArrowDown: less, ArrowRight: more, ArrowUp: more, Home: first,
        }[event.key];
        if (!to) return;
        event.preventDefault();
        move(...to);
      });
      this.handles.push({ node, options, axis });
      return node;
    }

    // a press anywhere in the plot puts the first handle there
    anywhere() {
      this.svg.classList.add("drag-anywhere");
      const put = (event) => {
        const [x, y] = this.at(event);
        if (x < this.x[0] || x > this.x[1] || y < this.y[0] || y > this.y[1]) return false;
        this.handles[0].options.move(x, y);
        this.handles[0].node.focus({ preventScroll: true });
        this.figure.change();
        return true;
      };
      let touch = false; // a finger may be about to scroll: only a tap counts
      this.svg.addEventListener("pointerdown", (event) => {
        touch = event.pointerType === "touch";
        if (touch || !put(event)) return;
        this.handles[0].node.setPointerCapture(event.pointerId);
        event.preventDefault();
      });
      this.svg.addEventListener("click", (event) => {
        if (touch && !event.target.closest(".drag-handle")) put(event);
      });
    }

    settle() {
      for (const { node, options, axis } of this.handles) {
        const [x, y] = options.at();
        const inside = (v, low, high) => Math.min(high, Math.max(low, v));
        const cx = inside(this.px(x), MARGIN.left, MARGIN.left + this.width);
        const cy = inside(this.py(y), MARGIN.top, MARGIN.top + this.height);
        node.setAttribute("transform", `translate(${cx},${cy})`);
        const along = axis === "y" ? [y, this.y] : [x, this.x];
        node.setAttribute("aria-valuemin", along[1][0]);
        node.setAttribute("aria-valuemax", along[1][1]);
        node.setAttribute("aria-valuenow", along[0]);
        node.setAttribute("aria-valuetext", options.say());
      }
    }
  }

  G.Plot = Plot;
})(globalThis);
