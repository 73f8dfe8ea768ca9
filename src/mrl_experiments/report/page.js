"use strict";
const find = (selector, root = document) => root.querySelector(selector);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const state = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
const dark = matchMedia("(prefers-color-scheme: dark)");
const form = find("#filters");

function make(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value != null && value !== false) node.setAttribute(key, value);
  }
  node.append(...children.filter((child) => child != null));
  return node;
}

const download = (id, kind, text) => make("button", { type: "button", "aria-label": `Download ${kind}`, onclick: async () => {
  const href = typeof text === "string" ? URL.createObjectURL(new Blob([text], { type: "text/plain" })) : await text();
  make("a", { href, download: `${id}.${kind.toLowerCase()}` }).click();
} }, kind);

// A chart's specification, for this page's ground, width and filters.
function adapted(spec, width) {
  const wide = structuredClone(spec);
  const css = getComputedStyle(document.body);
  const [ink, rule] = ["--ink", "--rule"].map((name) => css.getPropertyValue(name));
  const walk = (part) => {
    if (!part || typeof part !== "object") return;
    if (dark.matches && part.scale?.domain?.[0] != null && String(part.scale.range?.[0]).startsWith("#")) part.scale.range = spec.usermeta.dark;
    if (part.scale?.type === "log" && form.axis.value) part.scale = { type: "linear", zero: false };
    Object.values(part).forEach(walk);
  };
  walk(wide.layer);
  for (const param of wide.params) if (param.name === "ownOrPaper") param.value = !form.paper || form.paper.checked;
  const text = { labelColor: ink, titleColor: ink, domainColor: rule, tickColor: rule, gridColor: rule };
  const legend = { labelColor: ink, orient: "bottom", columns: Math.max(1, Math.floor(width / 190)), labelLimit: Math.min(300, width - 60) };
  const size = { width: width - 12, autosize: { type: "fit-x", contains: "padding" }, title: undefined, background: null };
  return { ...wide, ...size, config: { ...wide.config, axis: text, legend, text: { color: ink } } };
}

async function plot(holder, spec, id) {
  const result = await vegaEmbed(holder, adapted(spec, holder.clientWidth), { actions: false, renderer: "svg" });
  return ["PNG", "SVG"].map((kind) => download(id, kind, () => result.view.toImageURL(kind.toLowerCase(), 2)));
}

// One chart, or sentences above several.
async function figure(body, files, data, id) {
  const specs = data.specs ?? [data];
  const holders = specs.map(() => make("div", { class: "plot" }));
  const sentences = data.sentences && make("ul", { class: "story" }, ...data.sentences.map((text) => make("li", {}, text)));
  body.replaceChildren(...[sentences].filter(Boolean), make("div", { class: "plots" }, ...holders));
  files.replaceChildren(...(await Promise.all(holders.map((holder, i) => plot(holder, specs[i], data.specs ? `${id}-${i}` : id)))).flat());
}

// Samples side by side, marked where they are of the class of the one that was asked for.
function examples(body, files, data) {
  const sample = (place, asked) => {
    const { name, picture, text, label } = data.samples[place];
    const kind = asked == null ? "asked" : data.samples[asked].label === label ? "right" : "wrong";
    return make("figure", { class: kind, title: text }, picture ? make("img", { src: picture, alt: "" }) : text ? make("q", {}, text) : null, make("figcaption", {}, name, { asked: "", right: " ✓", wrong: " ✗" }[kind]));
  };
  const row = (first, ...cells) => make("tr", {}, make("th", { class: "key", scope: "row" }, sample(first)), ...cells.map((cell) => make("td", {}, ...[cell].flat())));
  const part = (title, heads, rows, open) => make("details", { open }, make("summary", {}, title), make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": title }, make("table", { class: "examples" }, make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { scope: "col" }, head)))), make("tbody", {}, ...rows))));
  const near = ({ sample: asked, near }) => row(asked, ...near.map((places) => places.map((place) => sample(place, asked))));
  const through = ({ sample: asked, funnel }) => row(asked, ...funnel.map(({ first, right, kept }) => [...first.map((place) => sample(place, asked)), make("small", {}, `${right} of these ${kept} are of its class`)]));
  const confused = ({ sample: one, other, counts, of }) => row(one, sample(other, one), ...counts.map((count) => `${count} of ${of}`));
  body.replaceChildren(
    part("Nearest neighbours of the same queries", ["Query", ...data.dims.map((dim, i) => `${dim} dims: ${(100 * data.top1[i]).toFixed(1)} % of all queries find their class first`)], data.queries.map(near), true),
    part("The same queries through a funnel", ["Query", ...(data.queries[0]?.funnel ?? []).map(({ dim, kept }) => `${dim} dims keep ${kept}`)], data.queries.map(through)),
    part("Which classes are taken for which", ["Class", "taken for", ...data.dims.map((dim) => `at ${dim} dims`)], data.confusions.map(confused)),
  );
  files.replaceChildren();
}

function table(body, files, data, id) {
  const numbers = (cell) => parseFloat(cell.t ?? cell);
  const heads = data.header.map((name, i) => make("th", { scope: "col", class: i < data.keys && "key" }, make("button", { type: "button", onclick: () => sort(i) }, name)));
  const rows = data.rows.map((row) => ({ row, node: make("tr", {}, ...row.map((cell, i) => i < data.keys
    ? make("th", { scope: "row", class: "key" }, cell)
    : make("td", {}, number(data, row, i, cell.t, cell.s), cell.p ? make("small", {}, number(data, row, i, cell.p, cell.q)) : null))) }));
  const lines = make("tbody", {}, ...rows.map(({ node }) => node));
  const sort = (column) => {
    const down = heads[column].ariaSort === "ascending";
    heads.forEach((head, i) => (i === column ? head.setAttribute("aria-sort", down ? "descending" : "ascending") : head.removeAttribute("aria-sort")));
    const value = ({ row }) => numbers(row[column]);
    const order = (a, b) => (isNaN(value(a)) || isNaN(value(b)) ? isNaN(value(a)) - isNaN(value(b)) || String(a.row[column]).localeCompare(b.row[column]) : (down ? -1 : 1) * (value(a) - value(b)));
    lines.append(...rows.sort(order).map(({ node }) => node));
  };
  const filter = make("input", { type: "search", placeholder: "filter rows", "aria-label": "Filter rows", oninput: () => {
    for (const { row, node } of rows) node.hidden = !row.some((cell) => String(cell.t ?? cell).toLowerCase().includes(filter.value.toLowerCase()));
  } });
  body.replaceChildren(filter, make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": data.title }, make("table", {}, make("caption", { class: "count" }, data.note), make("thead", {}, make("tr", {}, ...heads)), lines)));
  files.replaceChildren(...Object.entries({ CSV: data.csv, MD: data.md, TEX: data.tex }).map(([kind, text]) => download(id, kind, text)));
}

// A number, and on a click where it comes from.
function number(data, row, column, text, from) {
  if (!from) return text;
  const paper = typeof from === "string";
  const name = [data.header[column], ...data.header.slice(0, data.keys).map((key, i) => `${key} ${row[i]}`)].join(", ");
  return make("button", { type: "button", "aria-haspopup": "dialog", "data-odd": paper && from.includes("; beware: ") && "yes", onclick: () => {
    const runs = JSON.parse(find("#sources").textContent);
    const lines = paper ? [make("p", {}, from)] : from.map(([place, value]) => {
      const [run, command, href] = runs[place];
      return make("li", {}, href ? make("a", { href }, make("bdi", {}, run)) : make("bdi", {}, run), `: ${value}`, make("code", {}, command));
    });
    find("#source div").replaceChildren(make("h3", { id: "source-title" }, paper ? `Paper: ${text}` : text), make("p", { class: "hint" }, `${data.title} · ${name}`), make(paper ? "div" : "ul", {}, ...lines));
    find("#source").showModal();
  } }, text);
}

const DRAW = { figures: figure, tables: table, stories: figure, examples };
const fits = (node) => ["dataset", "model"].every((key) => !form[key].value || !node.dataset[key] || node.dataset[key] === form[key].value);

// Show the chosen block of a card; what is closed is neither read nor drawn.
async function show(card) {
  const id = find("select.block", card).value;
  const data = id && find(`#${CSS.escape(id)}`, card);
  if (data && card.open) await DRAW[card.dataset.kind](find(".body", card), find(".files", card), JSON.parse(data.textContent), id.slice(5));
}

function remember() {
  const open = all("details[data-kind][open]:not([data-first])").map((card) => card.id);
  for (const field of ["dataset", "model", "axis"]) form[field].value ? state.set(field, form[field].value) : state.delete(field);
  form.paper && !form.paper.checked ? state.set("paper", "no") : state.delete("paper");
  open.length ? state.set("open", open.join(" ")) : state.delete("open");
  history.replaceState(null, "", "#" + state);
}

function filter() {
  document.body.classList.toggle("ours", Boolean(form.paper && !form.paper.checked));
  for (const card of all("[data-kind]")) {
    const blocks = all("script", card).filter(fits);
    const select = find("select.block", card);
    const chosen = select.value;
    select.replaceChildren(...blocks.map((block) => make("option", { value: block.id }, block.dataset.title)));
    if (blocks.some((block) => block.id === chosen)) select.value = chosen;
    card.hidden = !blocks.length;
    find("summary .count", card).textContent = blocks.length > 1 ? `${blocks.length} blocks` : blocks[0]?.dataset.title ?? "";
    show(card);
  }
  for (const row of all("#claims tbody tr")) row.hidden = !fits(row);
  for (const link of all("nav a")) link.parentNode.hidden = find(link.getAttribute("href"))?.hidden;
}

function reveal(id) {
  const card = id && document.getElementById(id);
  if (card?.tagName === "DETAILS") card.open = true;
  card?.scrollIntoView();
}

for (const card of all("[data-kind]")) {
  card.addEventListener("toggle", () => { remember(); show(card); });
  find("select.block", card).addEventListener("change", () => show(card));
}
for (const field of ["dataset", "model", "axis"]) if ([...form[field].options].some((option) => option.value === state.get(field))) form[field].value = state.get(field);
if (form.paper && state.get("paper") === "no") form.paper.checked = false;
form.addEventListener("change", () => { remember(); filter(); });
form.addEventListener("submit", (event) => event.preventDefault());
dark.addEventListener("change", filter);
let waiting;
addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(filter, 150); });
for (const link of all("nav a")) link.addEventListener("click", (event) => { event.preventDefault(); reveal(link.getAttribute("href").slice(1)); });
for (const id of (state.get("open") ?? "").split(" ")) { const card = id && document.getElementById(id); if (card) card.open = true; }
if (location.hash && !location.hash.includes("=")) reveal(decodeURIComponent(location.hash.slice(1)));
filter();
document.documentElement.dataset.ready = "yes";
