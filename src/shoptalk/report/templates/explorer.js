"use strict";
// The explorer of all test queries: search, sort, filter; a query's rankings are built when it is opened. Texts are set as text only.
(() => {
  const place = document.getElementById("explorer");
  if (!place) return;
  const { depth, sources, passages, queries } = JSON.parse(document.getElementById("explorer-data").textContent);
  const find = document.getElementById("explorer-find");
  const sort = document.getElementById("explorer-sort");
  const rows = document.getElementById("explorer-rows");
  const more = document.getElementById("explorer-more");
  const status = document.getElementById("explorer-status");
  const { metric } = rows.dataset;
  const PAGE = 25;
  const CHANGED = 5e-5; // half of the last digit that is kept

  const make = (tag, className, text) => {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  };
  const plain = (value) => value.toFixed(3);
  const signed = (value) => (Math.abs(value) < 0.0005 ? "0.000" : `${value > 0 ? "+" : "\u2212"}${Math.abs(value).toFixed(3)}`);
  const tone = (query) => (query.c > CHANGED ? "better" : query.c < -CHANGED ? "worse" : "same");
  const rank = (value) => (value ? String(value) : `below ${depth}`);
  const folded = (text) => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();

  for (const [i, query] of queries.entries()) {
    query.i = i;
    query.folded = folded(query.t);
  }
  const collator = new Intl.Collator(document.documentElement.lang, { numeric: true });
  const orders = {
    gain: (x, y) => y.c - x.c,
    loss: (x, y) => x.c - y.c,
    before: (x, y) => x.b - y.b,
    after: (x, y) => x.a - y.a,
    text: (x, y) => collator.compare(x.t, y.t),
  };

  const marked = (text, words) => {
    // The words that were searched for, in the query's own spelling; folding keeps lengths for most scripts, else nothing is marked.
    const node = make("span", "text");
    node.dir = "auto";
    const flat = folded(text);
    const spots = [];
    if (flat.length === text.length) {
      for (const word of words) {
        for (let at = flat.indexOf(word); at >= 0; at = flat.indexOf(word, at + word.length)) spots.push([at, at + word.length]);
      }
    }
    spots.sort((x, y) => x[0] - y[0]);
    let done = 0;
    for (const [start, end] of spots) {
      if (start < done) continue;
      node.append(text.slice(done, start), make("mark", "", text.slice(start, end)));
      done = end;
    }
    node.append(text.slice(done));
    return node;
  };

  const movement = (at, there, side) => {
    const other = side === "after" ? "before" : "after";
    if (!there) return { kind: side === "after" ? "new" : "gone", text: `${other}: below ${depth}` };
    const up = side === "after" ? there - at : at - there;
    if (Math.abs(up) === 1) return { kind: "", text: `${up > 0 ? "\u25b2 up" : "\u25bc down"} 1 (${other}: ${there})` }; // made room, mostly
    if (up > 0) return { kind: "up", text: `\u25b2 up ${up} (${other}: ${there})` };
    if (up < 0) return { kind: "down", text: `\u25bc down ${-up} (${other}: ${there})` };
    return { kind: "", text: "same place" };
  };

  const entry = (at, number, there, side, right) => {
    const [title, source, snippet] = passages[number];
    const { kind, text } = movement(at, there, side);
    const item = make("li", `${kind}${right ? " relevant" : ""}`.trim());
    const body = make("div");
    const name = make("div", "title", title);
    name.dir = "auto";
    const tags = make("div", "tags");
    if (right) tags.append(make("span", "tag-right", "right passage"));
    const good = kind === "up" || kind === "new";
    tags.append(make("span", kind ? (good ? "good" : "bad") : "muted", text));
    body.append(name, tags);
    if (sources[source]) body.append(make("div", "source", sources[source]));
    if (snippet) {
      const shown = make("div", "snippet", snippet);
      shown.dir = "auto";
      body.append(shown);
    }
    item.append(make("span", "rank", String(at)), body);
    return item;
  };

  const ranking = (query, side) => {
    const [flat, value, missing] = side === "before" ? [query.B, query.b, query.mb] : [query.A, query.a, query.ma];
    const box = make("div");
    const list = make("ol", "ranking");
    const line = (text) => {
      const item = make("li", "gap");
      item.append(make("span"), make("span", "", text));
      list.append(item);
    };
    const right = new Set(query.r);
    let last = 0;
    for (let i = 0; i < flat.length; i += 3) {
      if (flat[i] > last + 1) line("\u22ef");
      list.append(entry(flat[i], flat[i + 1], flat[i + 2], side, right.has(flat[i + 1])));
      last = flat[i];
    }
    if (!flat.length) line("Nothing was found.");
    if (missing) line(`${missing} right ${missing === 1 ? "passage" : "passages"} not among the first ${depth}.`);
    box.append(make("h4", "small", `${side === "before" ? "Before" : "After"}: ${metric} ${plain(value)}`), list);
    return box;
  };

  const open = (details, query) => {
    const pair = make("div", "pair");
    if (query.B) pair.append(ranking(query, "before"), ranking(query, "after"));
    else pair.append(make("p", "muted", "The rankings of this query are not in this file; they are in evaluation/base.trec and tuned.trec."));
    details.append(pair);
  };

  const row = (query, words) => {
    const details = make("details", "query");
    const summary = make("summary");
    const change = { better: "change good", worse: "change bad", same: "change muted" }[tone(query)];
    const number = make("span", change, signed(query.c));
    number.title = `${metric} ${plain(query.b)} before, ${plain(query.a)} after`;
    summary.append(
      marked(query.t, words),
      make("span", "small muted nowrap", `right passage: ${rank(query.rb)} \u2192 ${rank(query.ra)}`),
      number,
    );
    details.append(summary);
    details.addEventListener("toggle", () => open(details, query), { once: true });
    return details;
  };

  let found = [];
  let words = [];
  let shown = 0;
  const page = () => {
    const next = found.slice(shown, shown + PAGE);
    const first = rows.children.length;
    rows.append(...next.map((query) => row(query, words)));
    shown += next.length;
    const left = found.length - shown;
    more.hidden = left === 0;
    more.textContent = `Show ${Math.min(PAGE, left)} more`;
    const all = `${found.length.toLocaleString("en")} ${found.length === 1 ? "query" : "queries"}`;
    status.textContent = found.length === 0 ? "No query is like that." : left ? `${shown.toLocaleString("en")} of ${all}` : all;
    return rows.children[first];
  };
  const update = () => {
    words = folded(find.value).split(/\s+/).filter(Boolean);
    const kind = place.querySelector("input[name='explorer-show']:checked").value;
    found = queries.filter((query) => (kind === "all" || tone(query) === kind) && words.every((word) => query.folded.includes(word)));
    const order = orders[sort.value];
    found.sort((x, y) => order(x, y) || x.i - y.i);
    rows.replaceChildren();
    shown = 0;
    page();
  };

  let waiting = 0;
  find.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(update, 120);
  });
  sort.addEventListener("change", update);
  place.addEventListener("change", (event) => event.target.name === "explorer-show" && update());
  more.addEventListener("click", () => page()?.firstElementChild.focus({ preventScroll: true }));
  place.hidden = false;
  document.documentElement.classList.add("explored");
  update();
})();
