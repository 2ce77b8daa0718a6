// A figure to drag: its words, controls and plots; its state, which lies in the page's address;
// theme, motion and what a screen reader is told. A figure's own file calls gdflows.figure(name,
// build); build(fig) adds plots and controls and sets fig.draw.
(function (root) {
  "use strict";
  const G = (root.gdflows = root.gdflows || {});
  const QUIET = 350; // milliseconds without a change, after which a screen reader is told

  function make(tag, attributes, parent, text) {
    const node = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes || {})) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    if (parent) parent.appendChild(node);
    return node;
  }

  // "#drag-name?a=1&b=2" as {a: "1", b: "2"}; null where the address is not this figure's
  function read(hash, name) {
    const [which, rest] = hash.replace(/^#/, "").split("?");
    return which === `drag-${name}` ? Object.fromEntries(new URLSearchParams(rest || "")) : null;
  }

  class Figure {
    constructor(place, name) {
      this.place = place;
      this.name = name;
      this.state = {};
      this.first = {};
      this.inputs = {};
      this.plots = [];
      this.still = matchMedia("(prefers-reduced-motion: reduce)");
      const body = place.querySelector(".drag-body");
      body.replaceChildren();
      this.parts = { try: make("p", { class: "drag-try" }, body) };
      for (const part of ["plots", "legend", "controls"]) {
        this.parts[part] = make("div", { class: `drag-${part}` }, body);
      }
      this.parts.seen = make("p", { class: "drag-seen" }, body);
      this.parts.told = make("p", { class: "drag-told", role: "status" }, body);
      const foot = make("p", { class: "drag-foot" }, body);
      this.link = make("a", { href: `#drag-${name}` }, foot, "Link to this state");
      const back = make("button", { type: "button" }, foot, "Back to the start");
      back.addEventListener("click", () => this.take(this.first));
    }

    // ---- state

    // A number of the state, in the address under `key`, kept within [low, high].
    value(key, start, low, high) {
      this.first[key] = this.state[key] = start;
      (this.ranges = this.ranges || {})[key] = [low, high];
    }

    take(values) {
      for (const [key, [low, high]] of Object.entries(this.ranges || {})) {
        const value = Number(values[key]);
        if (values[key] === undefined || values[key] === "" || !Number.isFinite(value)) continue;
        this.state[key] = Math.min(high, Math.max(low, value));
      }
      if (this.changed) this.changed();
      this.change(values === this.first);
    }

    // The state changed: draw soon; put it into the address, unless it is the one at the start.
    change(asAtFirst) {
      this.schedule();
      const entries = Object.entries(this.state).filter(([k]) => k in (this.ranges || {}));
      const query = entries.map(([k, v]) => `${k}=${Number(v.toPrecision(5))}`).join("&");
      const hash = `#drag-${this.name}?${query}`;
      this.link.setAttribute("href", hash);
      clearTimeout(this.writing);
      this.writing = setTimeout(() => {
        const mine = read(location.hash, this.name) !== null;
        if (asAtFirst && !mine) return;
        try {
          history.replaceState(history.state, "", asAtFirst ? `#drag-${this.name}` : hash);
        } catch { /* a browser that refuses to change the address: the link still has it */ }
      }, 200);
    }

    schedule() {
      if (this.waiting) return;
      this.waiting = true;
      requestAnimationFrame(() => {
        this.waiting = false;
        this.refresh();
      });
    }

    refresh() {
      const style = getComputedStyle(this.place);
      this.ground = hexOf(style.backgroundColor);
      for (const plot of this.plots) plot.begin();
      this.draw();
      for (const plot of this.plots) plot.settle();
      for (const update of Object.values(this.inputs)) update();
      this.legendPaint();
    }

    // ---- words

    try(text) {
      this.parts.try.replaceChildren();
      make("strong", {}, this.parts.try, "Try: ");
      this.parts.try.append(text);
    }

    seen(text) {
      this.parts.seen.textContent = text;
      clearTimeout(this.telling);
      this.telling = setTimeout(() => {
        if (this.told) this.parts.told.textContent = text;
        this.told = true; // not what a page says by itself when it is opened
      }, QUIET);
    }

    ink(model) {
      const colour = G.COLOURS[model] || model;
      // black is the colour of what is followed: on a dark ground it is nearly white
      return G.colour.readable(colour, this.ground, colour === "#000000" ? 12 : 3);
    }

    // entries: {model, name, mark: "line" | "dots" | "dashed"}
    legend(entries) {
      this.entries = entries;
    }

    legendPaint() {
      this.parts.legend.replaceChildren();
      for (const { model, name, mark } of this.entries || []) {
        const entry = make("span", { class: "drag-entry" }, this.parts.legend);
        const sample = make("span", { class: `drag-sample drag-${mark || "line"}`, "aria-hidden": "true" }, entry);
        sample.style.color = this.ink(model);
        entry.append(name || model);
      }
    }

    // ---- what the reader moves

    plot(options) {
      const plot = new G.Plot(this, options);
      this.parts.plots.appendChild(plot.box);
      this.plots.push(plot);
      this.parts.plots.dataset.count = this.plots.length;
      return plot;
    }

    // options: key, label, min, max, step, start, say(value); `live` is called at each change
    slider(options) {
      const { key, label, min, max, step, start, say, live } = options;
      this.value(key, start, min, max);
      const id = `drag-${this.name}-${key}`;
      const row = make("div", { class: "drag-slider" }, this.parts.controls);
      make("label", { for: id }, row, label);
      const input = make("input", { type: "range", id, min, max, step, value: start }, row);
      const shown = make("output", { for: id }, row);
      input.addEventListener("input", () => {
        this.state[key] = Number(input.value);
        if (live) live();
        this.change();
      });
      this.inputs[key] = () => {
        if (Number(input.value) !== this.state[key]) input.value = this.state[key];
        const text = say ? say(this.state[key]) : String(this.state[key]);
        shown.textContent = text;
        input.setAttribute("aria-valuetext", text);
      };
    }

    // a tick box; the state holds 0 or 1
    toggle({ key, label, start, live }) {
      this.value(key, start, 0, 1);
      const row = make("label", { class: "drag-toggle" }, this.parts.controls);
      const input = make("input", { type: "checkbox" }, row);
      row.append(label);
      input.addEventListener("change", () => {
        this.state[key] = Number(input.checked);
        if (live) live();
        this.change();
      });
      this.inputs[key] = () => (input.checked = Boolean(this.state[key]));
    }

    button(label, action) {
      const button = make("button", { type: "button" }, this.parts.controls, label);
      button.addEventListener("click", action);
      return button;
    }

    // Something that goes on by itself: tick() does a little and says whether there is more.
    // Nothing moves before the reader asks; with reduced motion `many` ticks are done at once.
    player({ label, tick, many }) {
      const button = this.button(label, () => (this.playing ? stop() : go()));
      const stop = () => {
        this.playing = false;
        button.textContent = label;
        this.schedule();
      };
      const go = () => {
        if (this.still.matches) {
          for (let k = 0; k < many && tick(); k++);
          this.schedule();
          return;
        }
        this.playing = true;
        button.textContent = "Pause";
        const frame = () => {
          if (!this.playing) return;
          if (!tick()) return stop();
          this.refresh();
          requestAnimationFrame(frame);
        };
        requestAnimationFrame(frame);
      };
      return { stop, go };
    }

    start() {
      const shared = read(location.hash, this.name);
      new ResizeObserver(() => this.schedule()).observe(this.place);
      new MutationObserver(() => this.schedule()).observe(document.documentElement, {
        attributes: true, attributeFilter: ["data-theme"],
      });
      addEventListener("hashchange", () => {
        const values = read(location.hash, this.name);
        if (values) this.take(values);
      });
      this.take(shared || this.first);
      if (shared) this.show();
    }

    // Scroll here, and again when the formulas above have been set, unless the reader moved.
    show() {
      let moved = false;
      for (const kind of ["wheel", "pointerdown", "keydown", "touchmove"]) {
        addEventListener(kind, () => (moved = true), { once: true, passive: true });
      }
      const here = () => moved || this.place.scrollIntoView({ block: "start", behavior: "instant" });
      here();
      const set = () => (root.MathJax && root.MathJax.startup ? root.MathJax.startup.promise : null);
      addEventListener("load", () => Promise.resolve(set()).then(here), { once: true });
    }
  }

  // "rgb(1, 2, 3)" as "#010203"; white where there is no colour
  function hexOf(text) {
    const found = text.match(/[\d.]+/g);
    if (!found || (found.length === 4 && Number(found[3]) === 0)) return "#ffffff";
    return "#" + found.slice(0, 3).map((c) => Math.round(c).toString(16).padStart(2, "0")).join("");
  }

  G.figure = function (name, build) {
    for (const place of document.querySelectorAll(`[data-drag="${name}"]`)) {
      if (place.dataset.ready) continue;
      place.dataset.ready = "yes";
      const fig = new Figure(place, name);
      build(fig);
      fig.start();
      (G.figures = G.figures || {})[name] = fig;
    }
  };
  // numbers in words: a minus sign that is one, and no more digits than asked for
  G.say = (value, digits) => value.toFixed(digits === undefined ? 2 : digits).replace("-", "−");
})(globalThis);
