"use strict";
// The gallery: select and sort rows, and create the cards near the window.
// Text enters the DOM only through textContent, so captions are never parsed as markup.
(() => {
  const CHUNK = 24; // cards created and removed together: full rows of 1, 2, 3, or 4 columns
  const AHEAD = "1000px"; // distance from the window within which cards exist
  const HEADLINE = ["CIDEr-D", "BLEU-4"];
  const FIRST = { sort: "original", order: "best", q: "", in: "all", verdict: "all", words: "on",
    seed: "" };

  const { patterns, holds, matches, marked } = search;
  const { make, number, count, percent, score, strip, ranked } = cards;
  const $ = (id) => document.getElementById(id);
  const rows = JSON.parse($("rows").textContent);
  const gallery = $("gallery");
  if (!gallery) return; // a page without captions
  const metrics = [...new Set(rows.flatMap((row) => Object.keys(row.scores ?? {})))];
  const hasOthers = rows.some((row) => row.other);
  const hasPictures = rows.some((row) => row.size || row.link || row.note);
  const hasVerdicts = rows.some((row) => "verdict" in row);
  const hasConfidence = rows.some((row) => (row.captions[0]?.[1] ?? null) !== null);
  const hasWords = rows.some((row) => row.words);
  const hasAttention = rows.some((row) => row.attention);

  // Images: blocks of base64 with one line per row, split on first use. They come last in the
  // page, so that the text appears before them.

  function whenLoaded(work) {
    if (document.readyState !== "loading") work();
    else document.addEventListener("DOMContentLoaded", work, { once: true });
  }

  let blocks;
  const opened = new Map();
  function block(number) {
    blocks ??= [...document.querySelectorAll("script.pictures")];
    if (!opened.has(number)) {
      opened.set(number, blocks[number].textContent.split("\n"));
      blocks[number].remove(); // one copy in memory is enough
    }
    return opened.get(number);
  }
  function address(index) {
    const size = block(0).length;
    return rows[index].link
      ?? `data:image/jpeg;base64,${block(Math.floor(index / size))[index % size]}`;
  }

  // Cards

  function card(index, position) {
    const row = rows[index];
    const [text, logProb] = row.captions[0] ?? ["", null];
    const caption = make("p", { class: "caption", dir: "auto" });
    if (text) marked(caption, text, current.terms);
    else caption.append(make("span", { class: "none" }, "empty caption"));
    if ("verdict" in row) caption.append(" ", badge(row.verdict));
    const picture = hasPictures ? makePicture(row, index) : null;
    return make("li", { "aria-posinset": position + 1, "aria-setsize": current.order.length },
      picture,
      make("div", { class: "text" }, caption, headline(row, logProb), ...versus(row),
        marked(make("p", { class: "id" }), row.id, current.terms)),
      state.words === "on" && row.words ? strip(words(row, text), picture, row.size) : null,
      more(row));
  }

  const badge = (right) => make("span", { class: `badge ${right ? "yes" : "no"}` },
    make("span", { "aria-hidden": "true" }, right ? "✓" : "✗"), right ? " right" : " wrong");

  function makePicture(row, index) {
    if (row.note || !(row.size || row.link)) {
      return make("div", { class: "picture none" },
        row.note ? `cannot read this image: ${row.note}` : "no image");
    }
    // The caption next to the image describes it; alt text would make screen readers repeat it.
    const image = make("img", { alt: "", decoding: "async" });
    if (row.size) [image.width, image.height] = row.size;
    else image.loading = "lazy";
    whenLoaded(() => { image.src = address(index); });
    const frame = make("div", { class: "picture" }, image);
    image.addEventListener("error", () => {
      frame.className = "picture none";
      frame.replaceChildren("cannot read this image");
    });
    return frame;
  }

  const difference = (row, name) => {
    const [mine, other] = [row.scores?.[name], row.other?.[2][name]];
    return (mine ?? null) === null || (other ?? null) === null ? null : mine - other;
  };
  const signed = (value) => `${value > 0 ? "+" : ""}${number(value)}`;

  // The caption of the other model, its scores, and by how much the first one's are better.
  function versus(row) {
    if (!row.other) return [];
    const [model, text, scores] = row.other;
    const other = make("p", { class: "caption", dir: "auto" },
      make("span", { class: "quiet" }, `${model} `));
    marked(other, text || "empty caption", current.terms);
    const names = headlined(row).filter((name) => difference(row, name) !== null);
    return [other,
      make("p", { class: "numbers" }, ...names.map((name) => score(name, number(scores[name])))),
      make("p", { class: "numbers" }, ...(names.length ? ["difference "] : []),
        ...names.map((name) => score(name, signed(difference(row, name)))))];
  }

  function confidence(logProb) {
    const shown = score("p", percent(Math.exp(logProb)));
    shown.title = `log p ${number(logProb, 2)}`;
    return shown;
  }

  function headlined(row) {
    const sorted = metrics.filter((name) => [name, `difference in ${name}`].includes(state.sort));
    return [...new Set([...sorted, ...HEADLINE, ...metrics])]
      .filter((name) => name in (row.scores ?? {})).slice(0, 2);
  }

  function headline(row, logProb) {
    const numbers = headlined(row).map((name) => score(name, number(row.scores[name])));
    if (logProb !== null) numbers.push(confidence(logProb));
    return numbers.length ? make("p", { class: "numbers" }, ...numbers) : null;
  }

  function more(row) {
    const [others, references] = [row.captions.slice(1), row.references ?? []];
    const scores = Object.entries(row.scores ?? {});
    const label = [
      references.length ? count(references.length, "reference", "references") : null,
      others.length ? count(others.length, "more caption", "more captions") : null,
    ].filter(Boolean).join(", ") || (scores.length > 2 ? "more scores" : "");
    if (!label) return null;
    const details = make("details", null, make("summary", null, label));
    if (references.length) {
      details.append(make("ul", { class: "references" }, ...references.map((reference) =>
        marked(make("li", { dir: "auto" }), reference, current.terms))));
    }
    if (others.length) {
      details.append(ranked(row.captions));
    }
    if (scores.length > 2) {
      details.append(make("p", { class: "numbers" },
        ...scores.map(([name, value]) => score(name, number(value)))));
    }
    // Open the references if the search matches one of them.
    details.open = current.terms.length > 0
      && references.some((text) => current.terms.some((t) => holds(text, t)))
      && state.in !== "captions" && state.in !== "invented";
    return details;
  }

  function words(row, text) {
    const bytes = row.attention ? atob(row.attention) : "";
    const units = row.units ?? text.split(" ");
    const size = bytes.length / units.length;
    return units.map((word, t) => ({
      word,
      probability: row.words[t],
      weights: size ? Array.from({ length: size }, (_, p) => bytes.charCodeAt(t * size + p)) : null,
    }));
  }

  // Selection and order

  const state = { ...FIRST };
  const current = { order: [], terms: [] };

  function shuffled(items, seed) { // Fisher–Yates, with mulberry32 as generator
    let a = seed >>> 0;
    const random = () => {
      a = (a + 0x6d2b79f5) | 0;
      let t = Math.imul(a ^ (a >>> 15), 1 | a);
      t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
      return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
    };
    for (let i = items.length - 1; i > 0; i--) {
      const j = Math.floor(random() * (i + 1));
      [items[i], items[j]] = [items[j], items[i]];
    }
    return items;
  }

  function choose() {
    current.terms = patterns(state.q);
    const match = matches[state.in];
    let chosen = rows.map((_, index) => index).filter((index) => {
      const row = rows[index];
      if (state.verdict !== "all" && row.verdict !== (state.verdict === "right")) return false;
      return !current.terms.length || match(
        row.captions[0]?.[0] ?? "", (row.references ?? []).join("\n"), row.id, current.terms);
    });
    if (state.sort === "random") {
      chosen = shuffled(chosen, Number(state.seed));
    } else if (state.sort !== "original") {
      const compared = state.sort.match(/^difference in (.*)/)?.[1];
      const value = (index) => (state.sort === "confidence" ? rows[index].captions[0]?.[1]
        : compared ? difference(rows[index], compared)
          : rows[index].scores?.[state.sort]) ?? null;
      const sign = state.order === "best" ? -1 : 1;
      const missing = chosen.filter((index) => value(index) === null); // last in either order
      chosen = chosen.filter((index) => value(index) !== null)
        .sort((a, b) => sign * (value(a) - value(b)) || a - b).concat(missing);
    }
    current.order = chosen;
  }

  // Cards exist only near the window. A distant list is empty but keeps its height.

  let estimate = 3000;
  const observer = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) fill(entry.target);
      else empty(entry.target);
    }
  }, { rootMargin: `${AHEAD} 0px` });

  function fill(list) {
    if (list.childElementCount) return;
    const from = CHUNK * list.chunk;
    list.replaceChildren(...current.order.slice(from, from + CHUNK)
      .map((index, i) => card(index, from + i)));
    list.style.height = "";
  }

  function empty(list) {
    if (!list.childElementCount || list.contains(document.activeElement)) return;
    if (list.childElementCount === CHUNK) estimate = list.offsetHeight;
    list.style.height = `${list.offsetHeight}px`;
    list.replaceChildren();
  }

  function show() {
    observer.disconnect();
    choose();
    const found = current.order.length;
    $("found").textContent = found === rows.length ? count(found, "image", "images")
      : `${number(found, 0)} of ${count(rows.length, "image", "images")}`;
    $("legend").hidden = !(hasAttention && state.words === "on" && found);
    gallery.classList.toggle("wide", hasAttention && state.words === "on");
    const lists = Array.from({ length: Math.ceil(found / CHUNK) }, (_, number) => {
      const list = make("ul", { class: "cards", role: "list" });
      list.chunk = number;
      return list;
    });
    gallery.replaceChildren(...lists);
    if (lists.length) fill(lists[0]); // the first cards are visible at once
    if (lists.length && found > CHUNK) estimate = lists[0].offsetHeight || estimate;
    for (const list of lists.slice(1)) {
      const share = Math.min(CHUNK, found - CHUNK * list.chunk) / CHUNK;
      list.style.height = `${estimate * share}px`;
    }
    for (const list of lists) observer.observe(list);
  }

  // Controls and the address: views can be shared, such as report.html#q=dog&sort=BLEU-4

  function read() {
    const given = new URLSearchParams(location.hash.slice(1));
    for (const name of Object.keys(FIRST)) {
      const value = given.get(name) ?? FIRST[name];
      const select = $(name);
      const known = !(select instanceof HTMLSelectElement)
        || [...select.options].some((option) => option.value === value);
      state[name] = known ? value : FIRST[name];
    }
  }

  function write() {
    const changed = Object.entries(state).filter(([name, value]) => value !== FIRST[name]
      && (name !== "seed" || state.sort === "random"));
    const hash = new URLSearchParams(changed).toString();
    history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
  }

  function reflect() {
    for (const name of ["q", "in", "sort", "order", "verdict"]) $(name).value = state[name];
    $("words").checked = state.words === "on";
    $("order-field").hidden = ["original", "random"].includes(state.sort);
    $("shuffle").hidden = state.sort !== "random";
  }

  function change(values) {
    Object.assign(state, values);
    if (state.sort === "random" && !state.seed) state.seed = newSeed();
    write();
    reflect();
    show();
    const top = $("captions").getBoundingClientRect().top;
    if (top < 0) $("captions").scrollIntoView();
  }

  const newSeed = () => String(Math.floor(Math.random() * 1e6) + 1);

  function addOptions() {
    const options = [["original", "original order"], ...metrics.map((name) => [name, name]),
      ...(hasOthers ? metrics.map((name) => `difference in ${name}`).map((name) => [name, name]) : []),
      ...(hasConfidence ? [["confidence", "confidence (log p)"]] : []), ["random", "random"]];
    $("sort").append(...options.map(([value, label]) => make("option", { value }, label)));
    $("verdict-field").hidden = !hasVerdicts;
    $("words-field").hidden = !hasWords;
    if (!rows.some((row) => row.references?.length)) {
      for (const value of ["references", "invented", "missed"]) {
        $("in").querySelector(`[value=${value}]`).remove();
      }
      $("in").options[0].textContent = "captions and names";
    }
  }

  // On a phone, the pictures come first.
  const training = document.querySelector(".training");
  if (training && matchMedia("(max-width: 34rem)").matches) training.open = false;

  addOptions();
  read();
  reflect();
  $("tools").hidden = false;
  show();
  let waiting;
  $("q").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => change({ q: $("q").value.trim() }), 150);
  });
  for (const name of ["in", "sort", "order", "verdict"]) {
    $(name).addEventListener("change", () => change({ [name]: $(name).value }));
  }
  $("words").addEventListener("change", () => change({ words: $("words").checked ? "on" : "off" }));
  $("shuffle").addEventListener("click", () => change({ seed: newSeed() }));
  $("tools").addEventListener("submit", (event) => event.preventDefault());
  addEventListener("hashchange", () => { read(); reflect(); show(); });
})();
