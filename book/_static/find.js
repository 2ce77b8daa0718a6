// The ranking of the search: see tools/bookkit/find.py. `gdflowsRank` knows no page, so that the
// tests can ask it; below, Sphinx's search is given it.
"use strict";
globalThis.gdflowsRank = (index, data, query, stem) => {
  const british = (word) => word
    .replace(/(..)yz(e|es|ed|er|ing)$/, "$1ys$2")
    .replace(/(...)iz(e|es|ed|er|ers|ing|ation|ations)$/, "$1is$2")
    .replace(/^(behavi|col|fav|neighb|lab)or/, "$1our")
    .replace(/^center/, "centre").replace(/^fiber/, "fibre").replace(/^meter$/, "metre")
    .replace(/^model(ed|ing)/, "modell$1").replace(/^label(ed|ing)/, "labell$1");
  const american = (word) => word
    .replace(/(..)ys(e|es|ed|er|ing)$/, "$1yz$2")
    .replace(/(...)is(e|es|ed|er|ers|ing|ation|ations)$/, "$1iz$2")
    .replace(/^(behavi|col|fav|neighb|lab)our/, "$1or")
    .replace(/^centre/, "center").replace(/^modell(ed|ing)/, "model$1")
    .replace(/^labell(ed|ing)/, "label$1");
  const SMALL = new Set(("a an and are as at be by do does for from how i in is it its of on or " +
    "that the this to was what when which why with").split(" "));
  const split = (text) => text.toLowerCase().replace(/['’]s\b/g, "").replace(/[-–‐]/g, " ")
    .split(/[^a-z0-9à-öø-ÿ_.]+/).map((w) => w.replace(/^\.+|\.+$/g, ""))
    .filter((w) => w && !SMALL.has(w));
  const forms = (word) => [...new Set([word, british(word), american(word)].map(stem))];
  const even = (text) => split(text).map((w) => stem(british(w)));
  const holds = (list, word) => forms(word).some((f) => list.includes(f));
  const asked = split(query);
  if (!asked.length) return [];

  const docs = index.docnames.map((name, k) => ({
    k, name, title: index.titles[k].replace(/^[\d.]+\s*/, ""), score: 0, hits: 0, anchor: "",
    best: 0, under: "",
  }));
  const listed = (files) => files === undefined ? [] : [].concat(files);
  const has = (table, key) => Object.prototype.hasOwnProperty.call(table, key);

  // words in the text, in titles, and those that set a page apart
  for (const word of asked) {
    const seen = new Set();
    for (const form of forms(word)) {
      const found = new Set(has(index.terms, form) ? listed(index.terms[form]) : []);
      const titled = new Set(has(index.titleterms, form) ? listed(index.titleterms[form]) : []);
      for (const k of new Set([...found, ...titled])) {
        seen.add(k);
        docs[k].score += titled.has(k) ? 2 : 1;
        const weight = ((data.words[docs[k].name] || {})[form] || 0) / 100;
        docs[k].score += 12 * weight;
      }
    }
    if (!seen.size && word.length > 3) {  // the beginning of a longer word
      for (const form of forms(word)) for (const term of Object.keys(index.terms)) {
        if (term.startsWith(form)) for (const k of listed(index.terms[term])) {
          if (!seen.has(k)) docs[k].score += 0.5;
          seen.add(k);
        }
      }
    }
    seen.forEach((k) => { docs[k].hits += 1; });
  }

  // titles: of pages before those of sections
  const wanted = even(query).join(" ");
  for (const [title, places] of Object.entries(index.alltitles)) {
    const words = even(title.replace(/^[\d.]+\s*/, ""));
    const matched = asked.filter((w) => holds(words, w)).length;
    if (!matched) continue;
    for (const [k, anchor] of places) {
      const page = docs[k];
      const own = anchor === null || index.titles[k] === title;
      let score = matched / asked.length * matched / Math.max(words.length, 1);
      if (matched === asked.length) score += 1;
      if (words.join(" ") === wanted) score += 1;
      if (own) page.score += 14 * score;
      else if (score > page.best) {
        page.best = score;
        if (matched === asked.length) { page.anchor = "#" + anchor; page.under = title; }
      }
    }
  }
  for (const page of docs) page.score += 6 * page.best;

  // other names
  for (const page of docs) for (const name of data.names[page.name] || []) {
    const words = even(name);
    if (words.join(" ") === wanted) page.score += 80;
    else if (asked.every((w) => holds(words, w))) page.score += 25 * asked.length / words.length;
    else if (words.length && words.every((w) => asked.some((a) => forms(a).includes(w)))) {
      page.score += 30 * words.length / asked.length;
    }
  }

  // names of the package
  const dotted = query.trim().toLowerCase();
  for (const page of docs) {
    const api = page.name.match(/generated\/(.+)$/);
    if (!api) {
      if (/appendix\/(claims|lists|api|bibliography)$/.test(page.name)) page.score -= 12;
      else if (/book\/(notation|index)$/.test(page.name)) page.score -= 8;
      continue;
    }
    const full = api[1].toLowerCase(), last = full.split(".").pop();
    if (dotted === full || dotted === full.replace(/^gdflows\./, "")) page.score += 300;
    else if (dotted === last) page.score += /[_.]/.test(dotted) ? 200 : 2;
    else page.score = Math.min(page.score, 1e9) * 0.1 - 20 + (last.includes(dotted) ? 10 : 0);
    page.hits = Math.max(page.hits, last.includes(dotted) ? asked.length : 0);
    page.anchor = "";
    page.under = "";
  }
  const some = Math.max(...docs.map((p) => p.hits));
  return docs
    .filter((p) => (p.hits && p.hits >= some) || p.score >= 25)
    .sort((a, b) => b.score - a.score || a.k - b.k)
    .map((p) => [p.name, p.under && p.under !== p.title ? `${p.title} › ${p.under}` : p.title,
      p.anchor, null, p.score, index.filenames[p.k]]);
};

if (typeof document !== "undefined") {
  const attach = () => {
    Search._performSearch = (query) => {  // Sphinx shows the last first
      const stemmer = new Stemmer();
      return gdflowsRank(Search._index, gdflowsFind, query, (w) => stemmer.stemWord(w)).reverse();
    };
  };
  if (typeof Search !== "undefined") attach();
  else document.addEventListener("DOMContentLoaded", attach);
}
