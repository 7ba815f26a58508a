"use strict";
// The IR of a stage is in the page, compressed; it is inflated when somebody asks for it.

const byId = (id) => document.getElementById(id);
const inflated = new Map();

function stageText(name) {
  if (!inflated.has(name)) {
    const packed = document.querySelector(`script[data-stage="${CSS.escape(name)}"]`).textContent;
    const bytes = Uint8Array.from(atob(packed), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    inflated.set(name, new Response(stream).json());
  }
  return inflated.get(name);
}

// Which lines are equal: common ends, then lines that occur once on both sides (patience
// diff), then, between these, a longest common subsequence.
function pairs(a, b, lowA = 0, highA = a.length, lowB = 0, highB = b.length, found = []) {
  while (lowA < highA && lowB < highB && a[lowA] === b[lowB]) found.push([lowA++, lowB++]);
  const tail = [];
  while (lowA < highA && lowB < highB && a[highA - 1] === b[highB - 1]) tail.push([--highA, --highB]);
  if (lowA < highA && lowB < highB) {
    const anchors = unique(a, b, lowA, highA, lowB, highB);
    if (anchors.length) {
      for (const [i, j] of [...anchors, [highA, highB]]) {
        pairs(a, b, lowA, i, lowB, j, found);
        if (i < highA) found.push([i, j]);
        [lowA, lowB] = [i + 1, j + 1];
      }
    } else if ((highA - lowA) * (highB - lowB) < 4e6) {
      found.push(...subsequence(a, b, lowA, highA, lowB, highB));
    }
  }
  found.push(...tail.reverse());
  return found;
}

function unique(a, b, lowA, highA, lowB, highB) {
  const seen = new Map();
  for (let i = lowA; i < highA; i++) {
    const entry = seen.get(a[i]) || { a: 0, b: 0 };
    entry.a++; entry.i = i; seen.set(a[i], entry);
  }
  for (let j = lowB; j < highB; j++) {
    const entry = seen.get(b[j]);
    if (entry) { entry.b++; entry.j = j; }
  }
  const once = [...seen.values()].filter((e) => e.a === 1 && e.b === 1);
  // The longest run of them that grows on both sides.
  const piles = [], before = [];
  once.forEach((entry, n) => {
    let low = 0, high = piles.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (once[piles[middle]].j < entry.j) low = middle + 1; else high = middle;
    }
    before[n] = low ? piles[low - 1] : -1;
    piles[low] = n;
  });
  const chosen = [];
  for (let n = piles.length ? piles[piles.length - 1] : -1; n >= 0; n = before[n]) {
    chosen.push([once[n].i, once[n].j]);
  }
  return chosen.reverse();
}

function subsequence(a, b, lowA, highA, lowB, highB) {
  const rows = highA - lowA, columns = highB - lowB;
  const table = new Uint16Array((rows + 1) * (columns + 1));
  for (let i = rows - 1; i >= 0; i--) {
    for (let j = columns - 1; j >= 0; j--) {
      const at = i * (columns + 1) + j;
      table[at] = a[lowA + i] === b[lowB + j]
        ? table[at + columns + 2] + 1
        : Math.max(table[at + columns + 1], table[at + 1]);
    }
  }
  const found = [];
  for (let i = 0, j = 0; i < rows && j < columns;) {
    const at = i * (columns + 1) + j;
    if (a[lowA + i] === b[lowB + j]) found.push([lowA + i++, lowB + j++]);
    else if (table[at + columns + 1] >= table[at + 1]) i++; else j++;
  }
  return found;
}

// Rows of the two columns: [line before or -1, line after or -1, equal].
function align(a, b) {
  const rows = [];
  let i = 0, j = 0;
  for (const [p, q] of [...pairs(a, b), [a.length, b.length]]) {
    while (i < p || j < q) rows.push([i < p ? i++ : -1, j < q ? j++ : -1, false]);
    if (p < a.length) { rows.push([p, q, true]); i = p + 1; j = q + 1; }
  }
  return rows;
}

const TOKEN = /(\/\/.*)|("(?:\\.|[^"\\])*")|(%[\w#.$-]+)|([@^][\w.$-]+)|([!#][\w.]+|\b(?:tensor|memref|vector)(?=<)|\b(?:index|none|b?f\d+|[su]?i\d+)\b)|(\b[a-z_]\w*(?:\.[a-z_]\w*)+)/g;
const KINDS = ["quiet", "s", "v", "f", "t", "k"];

function coloured(cell, text) {
  let end = 0;
  for (const match of text.matchAll(TOKEN)) {
    cell.append(text.slice(end, match.index));
    const span = document.createElement("span");
    span.className = KINDS[match.slice(1).findIndex((group) => group !== undefined)];
    span.textContent = match[0];
    cell.append(span);
    end = match.index + match[0].length;
  }
  cell.append(text.slice(end));
}

const CONTEXT = 3, CHUNK = 150;

function block(rows, before, after) {
  const grid = document.createElement("div");
  grid.className = "rows";
  for (const [i, j, equal] of rows) {
    for (const [number, lines, kind] of [[i, before, "del"], [j, after, "add"]]) {
      const line = document.createElement("span"), cell = document.createElement("span");
      line.className = "line";
      if (number < 0) cell.className = "none";
      else {
        line.textContent = number + 1;
        if (!equal) cell.className = kind;
        coloured(cell, lines[number]);
      }
      grid.append(line, cell);
    }
  }
  return grid;
}

function show(rows, before, after, whole) {
  const place = byId("ir-diff");
  place.replaceChildren();
  const near = new Uint8Array(rows.length);
  rows.forEach((row, n) => {
    if (!row[2]) near.fill(1, Math.max(0, n - CONTEXT), n + CONTEXT + 1);
  });
  for (let n = 0; n < rows.length;) {
    let end = n;
    while (end < rows.length && near[end] === near[n] && end - n < (near[n] || whole ? CHUNK : Infinity)) end++;
    const part = rows.slice(n, end);
    if (near[n] || whole) place.append(block(part, before, after));
    else {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "fold";
      button.textContent = `${part.length} equal line${part.length > 1 ? "s" : ""}`;
      button.onclick = () => button.replaceWith(block(part, before, after));
      place.append(button);
    }
    n = end;
  }
  place.scrollTop = 0;
  marks = [...place.querySelectorAll(".del, .add")].filter((cell) => {
    const above = cell.previousElementSibling?.previousElementSibling?.previousElementSibling?.previousElementSibling;
    return !above || !/^(del|add|none)$/.test(above.className);
  });
  mark = -1;
}

let marks = [], mark = -1;

function step(by) {
  if (!marks.length) return;
  marks[mark]?.classList.remove("here");
  mark = Math.min(marks.length - 1, Math.max(0, mark + by));
  marks[mark].classList.add("here");
  marks[mark].scrollIntoView({ block: "center" });
}

let asked = 0;

async function compare() {
  const turn = ++asked;
  const names = [byId("ir-before").value, byId("ir-after").value];
  const stages = await Promise.all(names.map(stageText));
  if (turn !== asked) return;
  const select = byId("ir-function"), chosen = select.value || "main";
  const functions = [...new Set(stages.flatMap((stage) => Object.keys(stage)))];
  select.replaceChildren(...functions.map((name) => new Option(name, name, false, name === chosen)));
  const texts = stages.map((stage) => stage[select.value] ?? "");
  const [before, after] = texts.map((text) => (text ? text.split("\n") : []));
  const plain = byId("ir-names").checked
    ? (line) => line.trim()
    : (line) => line.trim().replace(/%[\w#]+/g, "%").replace(/\^bb\d+/g, "^bb");
  const rows = align(before.map(plain), after.map(plain));
  const changed = rows.filter((row) => !row[2]).length;
  byId("ir-status").textContent =
    `${select.value}: ${before.length} lines after ${names[0]}, ${after.length} after ${names[1]}; `
    + (changed ? `${changed} rows differ` : "no difference");
  show(rows, before, after, byId("ir-whole").checked);
}

function shift(by) {
  const before = byId("ir-before"), after = byId("ir-after");
  const last = after.options.length - 1;
  after.selectedIndex = Math.min(last, Math.max(Math.min(1, last), after.selectedIndex + by));
  before.selectedIndex = Math.max(0, after.selectedIndex - 1);
  compare();
}

byId("ir-form").addEventListener("change", compare);
byId("ir-form").addEventListener("submit", (event) => event.preventDefault());
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || /^(INPUT|SELECT)$/.test(event.target.tagName)) return;
  const act = { "[": () => shift(-1), "]": () => shift(1), j: () => step(1), k: () => step(-1) }[event.key];
  if (act) { event.preventDefault(); act(); }
});
for (const button of document.querySelectorAll(".show-ir")) {
  button.onclick = () => {
    const select = byId("ir-function"), name = button.dataset.function;
    if (![...select.options].some((option) => option.value === name)) select.append(new Option(name));
    select.value = name;
    compare().then(() => { byId("ir").scrollIntoView(); byId("ir-diff").focus({ preventScroll: true }); });
  };
}
// A link to what is folded opens it.
function open() {
  const target = location.hash && byId(decodeURIComponent(location.hash.slice(1)));
  if (target instanceof HTMLDetailsElement) target.open = true;
}
addEventListener("hashchange", open);
open();

for (const table of document.querySelectorAll("table.sortable")) {
  table.querySelectorAll("thead th").forEach((head, column) => {
    head.querySelector("button").onclick = () => {
      const up = head.getAttribute("aria-sort") === "descending";
      for (const other of table.querySelectorAll("thead th")) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
      const order = (x, y) => (isNaN(key(x)) ? key(x).localeCompare(key(y)) : key(x) - key(y));
      const rows = [...table.tBodies[0].rows].sort((x, y) => (up ? order(x, y) : order(y, x)));
      table.tBodies[0].append(...rows);
    };
  });
}

// Not before the page is drawn, and not before somebody comes near it.
new IntersectionObserver((entries, observer) => {
  if (entries.some((entry) => entry.isIntersecting)) { observer.disconnect(); compare(); }
}, { rootMargin: "600px" }).observe(byId("ir"));
