"use strict";
// Parts of cards that several pages have. Text enters the DOM only through textContent, so captions
// are never parsed as markup.
const cards = (() => {
  function make(tag, attributes, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes ?? {})) element.setAttribute(name, value);
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  }

  const number = (value, digits = 1) => value === null || value === undefined ? "–"
    : value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits })
      .replace("-", "−");

  const count = (n, one, many) => `${number(n, 0)} ${n === 1 ? one : many}`;

  function percent(p) {
    if (p >= 0.1) return `${Math.round(100 * p)} %`;
    if (p >= 0.0001) return `${Number((100 * p).toPrecision(1))} %`;
    const [digits, power] = p.toExponential(0).split("e-");
    return p > 0 ? `${digits}·10⁻${[...power].map((d) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[d]).join("")}` : "0 %";
  }

  const score = (name, value) => make("span", null, `${name} `, make("b", null, value));

  // A table of captions, pairs of text and log p.
  const ranked = (captions) => make("table", { class: "others" },
    make("caption", null, "Captions, ranked by the search"),
    make("thead", null, make("tr", null, make("th", { scope: "col" }, "caption"),
      make("th", { scope: "col" }, "p"), make("th", { scope: "col" }, "log p"))),
    make("tbody", null, ...captions.map(([text, logProb]) => make("tr", null,
      make("td", { dir: "auto" }, text || "empty caption"),
      make("td", null, logProb === null ? "–" : percent(Math.exp(logProb))),
      make("td", null, number(logProb, 2))))));

  // The words of a caption, each with its probability and, if there are weights and an image, its
  // attention. Pointing, focus, and arrow keys enlarge it over the image of `frame`.
  function strip(words, frame, [width, height] = [4, 3]) {
    const image = frame?.querySelector("img");
    const seen = image && words.some(({ weights }) => weights);
    const tiles = words.map(({ word, probability, weights }, t) => {
      const label = [make("span", { class: "word", dir: "auto" }, word),
        make("span", { class: "p" }, probability === null ? "–" : percent(probability))];
      if (!seen) return make("li", null, ...label);
      const canvas = make("canvas", { "aria-hidden": "true" });
      canvas.width = 96 * Math.min(2, devicePixelRatio || 1);
      canvas.height = Math.round(canvas.width * height / width);
      const button = make("button", { type: "button", tabindex: t ? -1 : 0 }, canvas, ...label);
      button.weights = weights;
      return make("li", null, button);
    });
    const list = make("ol", {
      class: seen ? "strip" : "strip plain",
      "aria-label": seen ? "Attention for each word" : "Probability of each word",
    }, ...tiles);
    if (!seen) return list;
    const buttons = [...list.querySelectorAll("button")];
    const draw = () => {
      for (const button of buttons) {
        const canvas = button.firstChild;
        canvas.height = Math.round(canvas.width * image.naturalHeight / image.naturalWidth);
        attention.shade(canvas, button.weights, image);
      }
    };
    if (image.complete && image.naturalWidth) draw();
    else image.addEventListener("load", draw, { once: true });
    image.addEventListener("error", () => list.remove());
    enlarge(list, buttons, frame);
    return list;
  }

  // Show the attention of the hovered or focused word on the large image.
  function enlarge(list, buttons, frame) {
    const large = make("canvas", { class: "overlay", "aria-hidden": "true", hidden: "" });
    [large.width, large.height] = [128, 128];
    frame.append(large);
    const show = (button) => {
      large.hidden = !button;
      if (button) attention.shade(large, button.weights, null);
    };
    const focused = () => buttons.find((button) => button === document.activeElement);
    for (const button of buttons) {
      button.addEventListener("pointerenter", () => show(button));
      button.addEventListener("pointerleave", () => show(focused()));
      button.addEventListener("focus", () => show(button));
      button.addEventListener("blur", () => show(null));
      button.addEventListener("click", () => button.focus()); // Safari does not focus clicked buttons
    }
    list.addEventListener("keydown", (event) => {
      const at = buttons.indexOf(document.activeElement);
      const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: buttons.length - 1 };
      const next = buttons[to[event.key]];
      if (at < 0 || !next) return;
      event.preventDefault();
      buttons[at].tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    });
  }

  return { make, number, count, percent, score, ranked, strip };
})();
