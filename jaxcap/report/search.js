"use strict";
// Search: every term must match the beginning of a word; a quoted phrase is one term.
const search = (() => {
  // In scripts without spaces, a term may match anywhere.
  const UNSPACED = /^[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}]/u;

  function patterns(query) {
    const terms = [...query.matchAll(/"([^"]+)"?|([^\s"]+)/g)]
      .map((m) => (m[1] ?? m[2]).trim()).filter(Boolean);
    return terms.map((term) => {
      const literal = term.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
      return new RegExp(/^[\p{L}\p{N}]/u.test(term) && !UNSPACED.test(term)
        ? `(?<![\\p{L}\\p{N}])${literal}` : literal, "giu");
    });
  }

  const holds = (text, pattern) => text.search(pattern) >= 0;

  const matches = {
    all: (caption, references, id, terms) =>
      terms.every((t) => holds(`${caption}\n${references}\n${id}`, t)),
    captions: (caption, references, id, terms) => terms.every((t) => holds(caption, t)),
    references: (caption, references, id, terms) => terms.every((t) => holds(references, t)),
    invented: (caption, references, id, terms) =>
      terms.every((t) => holds(caption, t) && !holds(references, t)),
    missed: (caption, references, id, terms) =>
      terms.every((t) => !holds(caption, t) && holds(references, t)),
  };

  function marked(element, text, terms) {
    const spans = terms.flatMap((t) => [...text.matchAll(t)])
      .map((m) => [m.index, m.index + m[0].length]).sort((a, b) => a[0] - b[0] || b[1] - a[1]);
    let done = 0;
    for (const [from, to] of spans) {
      if (from < done) continue;
      const mark = document.createElement("mark");
      mark.textContent = text.slice(from, to);
      element.append(text.slice(done, from), mark);
      done = to;
    }
    element.append(text.slice(done));
    return element;
  }

  return { patterns, holds, matches, marked };
})();
