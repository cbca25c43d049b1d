"use strict";
// All text comes from documents and names that nobody has checked: it is set by textContent alone, never parsed.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const element = (name, className, text) => {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
};
const short = (value) => {
  for (const [unit, name] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]]) {
    if (value >= unit) return Number((value / unit).toPrecision(3)) + name;
  }
  return String(value);
};
const percent = (value) => (value === null ? "" : (100 * value).toFixed(value && value < 0.01 ? 2 : 1) + " %");
const decimal = (value) => (value === null ? "" : String(Number(value.toPrecision(3))));
const plain = (value) => value;

const columns = [
  ["source", "source", "name of the corpus", plain],
  ["language", "language", "code", plain],
  ["script", "script", "the script of most letters of the sample", plain],
  ["marks", "marks", "what is suspicious; click a row for the reasons", plain],
  ["tokens", "tokens", "ids of all documents", short],
  ["documents", "documents", "all documents", short],
  ["bytesPerToken", "bytes/\ntoken", "bytes of UTF-8 text for each token, over all documents", decimal],
  ["median", "median\nlength", "tokens of the middle document", short],
  ["longest", "longest", "tokens of the longest document", short],
  ["byteShare", "byte\nfallback", "share of tokens that are one byte of a character the vocabulary lacks (sample)", percent],
  ["unknownShare", "unknown", "share of tokens whose text is lost (sample)", percent],
  ["duplicates", "duplicates", "share of documents that are equal to an earlier one", percent],
  ["repeatedLines", "repeated\nlines", "share of lines that have come before (sample)", percent],
  ...data.phases.map((phase, at) => ["phase" + at, "epochs\n" + phase,
    "passes over the text by the end of phase " + phase, decimal]),
];
const isText = (key) => ["source", "language", "script", "marks"].includes(key);

function fillHeader() {
  document.title = data.title;
  byId("title").textContent = data.title;
  byId("totals").textContent = data.totals;
  for (const note of data.notes) byId("notes").append(element("li", "", note));
  const plan = byId("plan");
  plan.hidden = data.warnings.length === 0;
  plan.querySelector("summary").textContent = "warnings of the recipe's plan: " + data.warnings.length;
  for (const warning of data.warnings) plan.querySelector("ul").append(element("li", "", warning));
  for (const [kind, count] of data.kinds) {
    const button = element("button", "", kind + " " + count);
    button.type = "button";
    button.addEventListener("click", () => { byId("search").value = '"' + kind + '"'; show(); });
    byId("kinds").append(button);
  }
}

function makeRow(record) {
  const row = element("tr", "row");
  for (const [key, , , format] of columns) {
    const cell = element("td", isText(key) ? "text" : "");
    const value = record[key];
    if (key === "language") {
      const button = element("button", "", value);
      button.type = "button";
      button.setAttribute("aria-expanded", "false");
      cell.append(button);
    } else if (key === "marks") {
      cell.classList.add("marks");
      for (const [kind, text] of value) {
        const mark = element("span", "mark", kind);
        mark.title = text;
        cell.append(mark);
      }
    } else if (value !== null && value !== undefined) {
      cell.textContent = format(value);
      if (format === short && value >= 1000) cell.title = value.toLocaleString("en");
    }
    row.append(cell);
  }
  row.addEventListener("click", () => toggle(record));
  return row;
}

function excerptOf(heading, text) {
  const box = element("div");
  const shown = element("div", "excerpt", text);
  shown.dir = "auto";
  box.append(element("div", "", heading), shown);
  return box;
}

function histogramOf(counts) {
  const box = element("div", "histogram");
  const most = Math.max(...counts);
  counts.forEach((count, power) => {
    const bar = element("span");
    bar.style.height = (100 * count / most) + "%";
    bar.title = (2 ** power).toLocaleString("en") + " tokens or more: " + count.toLocaleString("en") + " documents";
    box.append(bar);
  });
  return box;
}

function detailOf(record) {
  const detail = element("tr", "detail");
  const cell = element("td");
  cell.colSpan = columns.length;
  for (const [kind, text] of record.marks) cell.append(element("p", "", kind + ": " + text));
  cell.append(element("h2", "", "Documents by length, in powers of two"), histogramOf(record.histogram));
  const scripts = record.scripts.map(([script, share]) => script + " " + percent(share)).join(", ");
  cell.append(element("p", "", "letters of the sample: " + (scripts || "none")));
  if (record.repeated) {
    const [copies, number, text] = record.repeated;
    cell.append(element("h2", "", "The document that is there most often"));
    cell.append(excerptOf("document " + number + ", " + copies.toLocaleString("en") + " times", text));
  }
  if (record.lines.length) cell.append(element("h2", "", "Lines that several documents of the sample have"));
  for (const [text, count] of record.lines) cell.append(excerptOf("in " + count + " documents", text));
  cell.append(element("h2", "", "Beginnings of some documents"));
  for (const [number, text] of record.excerpts) cell.append(excerptOf("document " + number, text));
  detail.append(cell);
  return detail;
}

function toggle(record) {
  if (record.detail) {
    record.detail.remove();
    record.detail = null;
  } else {
    record.detail = detailOf(record);
    record.row.after(record.detail);
  }
  record.row.querySelector("button").setAttribute("aria-expanded", String(Boolean(record.detail)));
}

// Rows are made when they come into sight: a browser takes seconds to lay out two thousand at once.
const AT_ONCE = 100;
let view = [];
let made = 0;
function more(count = AT_ONCE) {
  const rows = document.createDocumentFragment();
  for (const record of view.slice(made, made + count)) {
    record.row = record.row || makeRow(record);
    rows.append(record.row);
    if (record.detail) rows.append(record.detail);
  }
  byId("body").append(rows);
  made = Math.min(made + count, view.length);
}

// A part in quotes is the name of a kind of mark; every other word may stand anywhere.
function show() {
  const query = byId("search").value.toLowerCase();
  const kinds = [...query.matchAll(/"([^"]*)"/g)].map((match) => match[1]);
  const words = query.replace(/"[^"]*"?/g, " ").split(/\s+/).filter(Boolean);
  const onlyMarked = byId("marked").checked;
  view = data.rows.filter((record) => words.every((word) => record.haystack.includes(word))
    && kinds.every((kind) => record.marks.some((mark) => mark[0] === kind))
    && (!onlyMarked || record.marks.length > 0));
  made = 0;
  byId("body").replaceChildren();
  more();
  byId("count").textContent = view.length.toLocaleString("en") + " of " + data.rows.length.toLocaleString("en");
}

let sorted = { key: null, ascending: true };
function sortBy(key) {
  const isNew = sorted.key !== key;
  sorted = { key, ascending: isNew ? isText(key) && key !== "marks" : !sorted.ascending };
  const sign = sorted.ascending ? 1 : -1;
  const valueOf = key === "marks" ? (record) => record.marks.length : (record) => record[key];
  data.rows.sort((one, other) => {
    const [a, b] = [valueOf(one), valueOf(other)];
    if (a === b) return one.number - other.number;
    if (a === null || a === undefined) return 1;  // rows without a value come last in both directions
    if (b === null || b === undefined) return -1;
    return a < b ? -sign : sign;
  });
  for (const head of byId("head").children) {
    const direction = head.dataset.key !== key ? "none" : sorted.ascending ? "ascending" : "descending";
    head.setAttribute("aria-sort", direction);
  }
  show();
}

function fillHead() {
  for (const [key, label, title] of columns) {
    const head = element("th", isText(key) ? "text" : "");
    head.dataset.key = key;
    head.title = title;
    const button = element("button");
    button.type = "button";
    label.split("\n").forEach((part, at) => {
      if (at) button.append(document.createElement("br"));
      button.append(part);
    });
    button.addEventListener("click", () => sortBy(key));
    head.append(button);
    byId("head").append(head);
  }
}

fillHeader();
fillHead();
data.rows.forEach((record, number) => {
  record.number = number;
  record.haystack = [record.source, record.language, ...record.scripts.map((each) => each[0]),
    ...record.marks.map((mark) => mark[0])].join(" ").toLowerCase();
});
sortBy("tokens");
byId("search").addEventListener("input", show);
byId("marked").addEventListener("change", show);
byId("filter").addEventListener("submit", (event) => event.preventDefault());
new IntersectionObserver((seen) => { if (seen[0].isIntersecting && made < view.length) more(); },
  { rootMargin: "600px" }).observe(byId("end"));
window.addEventListener("beforeprint", () => more(view.length));
