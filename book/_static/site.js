// What a page needs of a script: boxes that scroll can be reached by keys, figures can be enlarged,
// and a term says what it means. Without it all of the text is there.
"use strict";
(() => {
  const SCROLLS = ".table-scroll, .bd-article pre, div.math, mjx-container, .cell_output .output, " +
    ".bd-article .sig-scroll";

  // What is wider than its box can be scrolled with the arrow keys once it has the focus.
  const reach = () => document.querySelectorAll(SCROLLS).forEach((box) => {
    const over = box.matches("mjx-container") ? 6 : 1;  // slanted letters stand out a little
    const wide = box.scrollWidth > box.clientWidth + over &&
      /auto|scroll/.test(getComputedStyle(box).overflowX);
    if (wide && !box.hasAttribute("tabindex")) {
      box.tabIndex = 0;
      box.dataset.reached = "";
      if (!box.hasAttribute("role") && box.matches("div, mjx-container")) {
        box.setAttribute("role", "group");
        const caption = box.querySelector("caption .caption-text") || box.querySelector("caption");
        box.setAttribute("aria-label", box.matches(".table-scroll") ?
          "Table, wider than the page" + (caption ? `: ${caption.textContent.trim()}` : "") :
          box.matches("div.math, mjx-container") ? "Formula, wider than the page" :
            "Output, wider than the page");
      }
    } else if (!wide && "reached" in box.dataset) {
      ["tabindex", "role", "aria-label", "data-reached"].forEach((a) => box.removeAttribute(a));
    }
  });

  // ---- figures: a press shows one as large as it is, to be moved about in

  const enlarge = (image, pressed) => {
    const dialog = document.createElement("dialog");
    dialog.className = "enlarged";
    dialog.setAttribute("aria-label", "Figure, enlarged");
    const close = document.createElement("button");
    close.type = "button";
    close.textContent = "Close";
    close.addEventListener("click", () => dialog.close());
    const box = document.createElement("div");
    box.className = "enlarged-box";
    box.tabIndex = 0;
    const copy = document.createElement("img");
    copy.src = image.src;
    copy.alt = image.alt;
    box.append(copy);
    dialog.append(close, box);
    dialog.addEventListener("close", () => { dialog.remove(); pressed.focus(); });
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
    document.body.append(dialog);
    dialog.showModal();
  };

  const press = (element, image) => {
    element.tabIndex = 0;
    element.setAttribute("role", "button");
    element.setAttribute("aria-label", `Enlarge the figure: ${image.alt}`);
    element.classList.add("can-enlarge");
    element.addEventListener("click", () => enlarge(image, element));
    element.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      enlarge(image, element);
    });
  };

  const pressable = () => document.querySelectorAll(".bd-article figure img").forEach((image) => {
    const link = image.closest("a");
    if (link && !link.matches(".image-reference")) return;
    if (link) link.replaceWith(image);  // to the picture's file, where there is no script
    press(image, image);
    if (image.dataset.panels) stack(image, JSON.parse(image.dataset.panels));
  });

  // ---- figures on a phone: the panels one below another, as parts of the one picture
  // (tools/bookkit/panels.py says where they are; custom.css shows the stack or the whole)

  const made = (name, parent) => {
    const element = document.createElement("span");
    element.className = name;
    parent.append(element);
    return element;
  };

  const stack = (image, { size: [width, height], pieces }) => {
    const box = document.createElement("div");
    box.className = "panels";
    // pictures are drawn at twice the size that they have on a desktop
    const scale = (parseFloat(image.style.width) || width / 2) / width;
    const part = (all, own) => `${100 * own / all}%`;
    const place = (all, own, start) => all > own ? `${100 * start / (all - own)}%` : "0";
    for (const { where, size: [w, h], parts } of pieces) {
      const piece = made("panel", box);
      piece.setAttribute("aria-hidden", "true");
      piece.style.width = `${w * scale}px`;
      if (where) made("panel-where", piece).textContent = where;
      const frame = made("panel-frame", piece);
      frame.style.aspectRatio = `${w} / ${h}`;
      for (const [x, y, left, top, wide, high] of parts) {
        Object.assign(made("panel-part", frame).style, {
          left: part(w, x), top: part(h, y), width: part(w, wide), height: part(h, high),
          backgroundImage: `url("${image.src}")`,
          backgroundSize: `${100 * width / wide}% ${100 * height / high}%`,
          backgroundPosition: `${place(width, wide, left)} ${place(height, high, top)}`,
        });
      }
    }
    press(box, image);
    image.after(box);
    image.classList.add("has-panels");
  };

  // ---- terms: what the glossary says, where the pointer or the focus is

  const hovers = () => {
    const tip = document.createElement("div");
    tip.id = "term-tip";
    tip.setAttribute("role", "tooltip");
    tip.hidden = true;
    document.body.append(tip);
    let link = null, timer = 0;
    const hide = () => {
      clearTimeout(timer);
      tip.hidden = true;
      if (link) link.removeAttribute("aria-describedby");
      link = null;
    };
    const show = (target, html) => {
      clearTimeout(timer);
      if (link !== target) hide();
      link = target;
      tip.innerHTML = html;
      tip.hidden = false;
      target.setAttribute("aria-describedby", tip.id);
      const place = () => {
        const at = target.getBoundingClientRect(), own = tip.getBoundingClientRect();
        const below = at.bottom + own.height + 8 < innerHeight || at.top < own.height + 8;
        tip.style.left = `${scrollX + Math.max(8, Math.min(at.left, innerWidth - own.width - 8))}px`;
        tip.style.top = `${scrollY + (below ? at.bottom + 4 : at.top - own.height - 4)}px`;
      };
      place();
      if (window.MathJax && MathJax.typesetPromise) MathJax.typesetPromise([tip]).then(place);
    };
    const later = () => { timer = setTimeout(hide, 250); };
    tip.addEventListener("mouseenter", () => clearTimeout(timer));
    tip.addEventListener("mouseleave", later);
    document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
    document.querySelectorAll("a[href*='#term-']").forEach((target) => {
      const html = (window.gdflowsTerms || {})[target.hash.slice(1)];
      if (!html || target.closest("dl.glossary, nav")) return;
      target.classList.add("has-tip");
      target.addEventListener("mouseenter", () => show(target, html));
      target.addEventListener("focus", () => show(target, html));
      target.addEventListener("mouseleave", later);
      target.addEventListener("blur", later);
    });
  };

  const copies = () => document.querySelectorAll(".bibtex button").forEach((button) => {
    button.addEventListener("click", () => {
      navigator.clipboard.writeText(button.parentNode.querySelector("pre").textContent)
        .then(() => { button.textContent = "Copied"; }, () => { button.textContent = "Select and copy"; });
    });
  });

  pressable();
  hovers();
  copies();
  reach();
  addEventListener("resize", reach);
  document.addEventListener("toggle", reach, true);
  const set = () => (window.MathJax && MathJax.startup && MathJax.startup.promise)
    ? MathJax.startup.promise.then(reach) : 0;
  addEventListener("load", () => { set(); reach(); });
})();
