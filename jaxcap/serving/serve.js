"use strict";
// Send photographs to the server, and show their captions.
(() => {
  const AT_ONCE = 4;
  const { make, count, percent, score, ranked, strip } = cards;
  const $ = (id) => document.getElementById(id);
  const shown = []; // the newest first
  const waiting = [];
  let running = 0;
  let locked = false;

  function query() {
    const options = new URLSearchParams({ words: "true" });
    for (const field of $("options").querySelectorAll("input, select")) {
      const values = "words" in field.dataset ? field.value.split(/[\s,]+/) : [field.value.trim()];
      for (const value of values) if (value) options.append(field.name, value);
    }
    return options;
  }

  async function ask(file) {
    const token = $("token").value.replace(/[^!-~]/g, ""); // a pasted one may end with a space
    for (;;) {
      const answer = await fetch(`v1/caption?${query()}`, {
        method: "POST",
        body: file,
        headers: token ? { authorization: `Bearer ${token}` } : {},
      });
      const wait = Number(answer.headers.get("retry-after"));
      if (answer.status !== 503 || !wait) return [answer.status, await answer.json()];
      await new Promise((resume) => { setTimeout(resume, 1000 * wait); });
    }
  }

  async function caption(item) {
    fill(item, make("p", { class: "none" }, "captioning…"));
    const turn = item.turns = (item.turns ?? 0) + 1;
    let [status, result] = [0, null];
    try {
      [status, result] = await ask(item.file);
    } catch {
      result = { error: "the server cannot be reached" };
    }
    if (turn !== item.turns) return; // it was sent again, with other options
    if (status === 401) {
      lock(item);
      return;
    }
    if (result.error) {
      const message = result.error.replace(/^image 1: /, "");
      fill(item, make("p", { class: "failed" }, message));
      say(`${item.file.name}: ${message}`);
      return;
    }
    show(item, result);
    say(`${item.file.name}: ${result.captions[0].caption}`);
  }

  function lock(item) {
    fill(item, make("p", { class: "none" }, "waits for the access token"));
    waiting.push(item);
    if (!locked) say("This server needs an access token.");
    locked = true;
    $("locked").hidden = false;
    $("token").focus();
  }

  const say = (text) => { $("status").textContent = text; };

  function show(item, result) {
    const [best, ...others] = result.captions;
    const numbers = make("p", { class: "numbers" }, score("confidence", percent(best.confidence)));
    if ("familiarity" in result) numbers.append(score("familiarity", percent(result.familiarity)));
    const words = (best.words ?? []).map(({ word, probability, attention }) =>
      ({ word, probability, weights: attention ? attention.flat() : null }));
    const text = make("p", { class: "caption", dir: "auto" },
      best.caption || make("span", { class: "none" }, "empty caption"));
    const more = others.length ? make("details", null,
      make("summary", null, count(others.length, "more caption", "more captions")),
      ranked(result.captions.map((each) => [each.caption, each.log_prob]))) : null;
    const seen = words.some(({ weights }) => weights);
    fill(item, text, numbers, copy(best.caption),
      result.unsaid ? make("p", { class: "quiet" }, `also recognised: ${result.unsaid.join(", ")}`)
        : null);
    item.card.append(strip(words, item.frame), ...(more ? [more] : []));
    if (seen) $("legend").hidden = false;
  }

  function copy(text) {
    if (!navigator.clipboard) return null; // only pages of this machine or of https may copy
    const button = make("button", { type: "button", class: "copy" }, "Copy caption");
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(text);
      say("Copied.");
    });
    return button;
  }

  function fill(item, ...content) {
    item.frame.querySelector(".overlay")?.remove();
    item.text.replaceChildren(...content.filter(Boolean), make("p", { class: "id" }, item.file.name));
    item.card.replaceChildren(item.frame, item.text);
  }

  function add(files) {
    for (const file of files) {
      // The caption next to the image describes it; alt text would make screen readers repeat it.
      const image = make("img", { alt: "", src: URL.createObjectURL(file) });
      const item = { file, frame: make("div", { class: "picture" }, image),
        text: make("div", { class: "text" }), card: make("li") };
      image.addEventListener("error", () => {
        item.frame.className = "picture none";
        item.frame.replaceChildren("this browser cannot show the image");
      });
      shown.unshift(item);
      waiting.push(item);
      fill(item, make("p", { class: "none" }, "waiting…"));
      $("cards").prepend(item.card);
    }
    $("again").disabled = !shown.length;
    next();
  }

  async function next() {
    while (running < AT_ONCE && waiting.length && !locked) {
      running += 1;
      caption(waiting.shift()).finally(() => {
        running -= 1;
        next();
      });
    }
  }

  $("files").addEventListener("change", () => {
    add($("files").files);
    $("files").value = "";
  });
  for (const name of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      $("drop").classList.toggle("over", name === "dragover");
      if (name === "drop") add(event.dataTransfer.files);
    });
  }
  document.addEventListener("paste", (event) => {
    if (event.clipboardData.files.length) add(event.clipboardData.files);
  });
  $("again").addEventListener("click", () => {
    waiting.push(...shown.filter((item) => !waiting.includes(item)));
    next();
  });
  $("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    if (!locked) return;
    locked = false;
    $("locked").hidden = true;
    next();
  });
  $("ask").hidden = false;
})();
