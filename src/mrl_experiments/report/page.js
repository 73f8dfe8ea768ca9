"use strict";
const find = (selector, root = document) => root.querySelector(selector);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const state = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
const dark = matchMedia("(prefers-color-scheme: dark)");
const form = find("#filters");

function make(name, properties = {}, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children.flat().filter((child) => child != null));
  return node;
}

// What is wider than the page can be scrolled, by keys too.
const scrolled = (title, className, heads, rows) => make("div", { className: "scroll", tabIndex: 0, role: "region", ariaLabel: title },
  make("table", { className }, make("thead", {}, make("tr", {}, heads)), make("tbody", {}, rows)));

const download = (id, kind, address) => make("button", { type: "button", ariaLabel: `Download ${kind}`, onclick: async () => {
  make("a", { href: await address(kind.toLowerCase()), download: `${id}.${kind.toLowerCase()}` }).click();
} }, kind);

// A chart's specification, for this page's ground, width and filters.
function adapted(spec, width) {
  const { color: ink, borderTopColor: rule } = getComputedStyle(form);
  const { config, usermeta, ...wide } = JSON.parse(JSON.stringify(spec), (key, part) => {
    if (key === "scale" && part.type === "log" && form.axis.value) return { type: "linear", zero: false };
    return key === "range" && dark.matches && part[0][0] === "#" ? spec.usermeta.dark : part;
  });
  const axis = { labelColor: ink, titleColor: ink, domainColor: rule, tickColor: rule, gridColor: rule };
  const legend = { labelColor: ink, orient: "bottom", columns: Math.max(1, Math.floor(width / 190)), labelLimit: Math.min(300, width - 60) };
  const params = [{ name: "ownOrPaper", value: form.paper?.checked ?? true }];
  const size = { width: "container", autosize: { type: "fit-x", contains: "padding" }, title: undefined, background: null };
  return { ...wide, ...size, params, config: { ...config, axis, legend, text: { color: ink } } };
}

// One chart, or sentences above several.
async function figure(body, data, id) {
  const specs = data.specs ?? [data];
  const holders = specs.map(() => make("div", { className: "plot" }));
  const sentences = (data.sentences ?? []).map((text) => make("li", {}, text));
  body.replaceChildren(make("ul", { className: "story", hidden: !sentences.length }, sentences), make("div", { className: "plots" }, holders));
  const files = holders.map(async (holder, i) => {
    const { view } = await vegaEmbed(holder, adapted(specs[i], holder.clientWidth), { actions: false, renderer: "svg" });
    return ["PNG", "SVG"].map((kind) => download(data.specs ? `${id}-${i}` : id, kind, (form) => view.toImageURL(form, 2)));
  });
  return (await Promise.all(files)).flat();
}

// Samples side by side, marked where they are of the class of the one that was asked for.
function examples(body, data) {
  const sample = (place, asked) => {
    const { name, picture, text, label } = data.samples[place];
    const [className, mark] = asked == null ? ["asked", ""] : data.samples[asked].label === label ? ["right", " ✓"] : ["wrong", " ✗"];
    const shown = picture ? make("img", { src: picture, alt: "" }) : text ? make("q", {}, text) : null;
    return make("figure", { className, title: text }, shown, make("figcaption", {}, name, mark));
  };
  const row = (first, cells) => make("tr", {}, make("th", { className: "key", scope: "row" }, sample(first)), cells.map((cell) => make("td", {}, cell)));
  const part = (title, heads, rows) => make("details", {}, make("summary", {}, title), scrolled(title, "examples", heads.map((head) => make("th", { scope: "col" }, head)), rows));
  const near = ({ sample: asked, near }) => row(asked, near.map((places) => places.map((place) => sample(place, asked))));
  const through = ({ sample: asked, funnel }) => row(asked, funnel.map(({ first, right, kept }) => [...first.map((place) => sample(place, asked)), make("small", {}, `${right} of these ${kept} are of its class`)]));
  const confused = ({ sample: one, other, counts, of }) => row(one, [sample(other, one), ...counts.map((count) => `${count} of ${of}`)]);
  body.replaceChildren(
    part("Nearest neighbours of the same queries", ["Query", ...data.dims.map((dim, i) => `${dim} dims: ${(100 * data.top1[i]).toFixed(1)} % of all queries find their class first`)], data.queries.map(near)),
    part("The same queries through a funnel", ["Query", ...(data.queries[0]?.funnel ?? []).map(({ dim, kept }) => `${dim} dims keep ${kept}`)], data.queries.map(through)),
    part("Which classes are taken for which", ["Class", "taken for", ...data.dims.map((dim) => `at ${dim} dims`)], data.confusions.map(confused)),
  );
  body.firstChild.open = true;
  return [];
}

function table(body, data, id) {
  const shown = (cell) => String(cell.t ?? cell);
  const rows = data.rows.map((row) => ({ row, node: make("tr", {}, row.map((cell, i) => i < data.keys
    ? make("th", { scope: "row", className: "key" }, cell)
    : make("td", {}, number(data, row, i, cell.t, cell.s), cell.p ? make("small", {}, number(data, row, i, cell.p, cell.q)) : null))) }));
  const heads = data.header.map((name, i) => make("th", { scope: "col", className: i < data.keys ? "key" : "" }, make("button", { type: "button", onclick: () => sort(i) }, name)));
  const sort = (column) => {
    const down = heads[column].ariaSort === "ascending";
    for (const head of heads) head.ariaSort = head !== heads[column] ? null : down ? "descending" : "ascending";
    const [text, value] = [({ row }) => shown(row[column]), ({ row }) => parseFloat(shown(row[column]))];
    const order = (a, b) => isNaN(value(a)) - isNaN(value(b)) || (down ? -1 : 1) * (value(a) - value(b) || text(a).localeCompare(text(b)));
    rows[0].node.parentNode.append(...rows.sort(order).map(({ node }) => node));
  };
  const filter = make("input", { type: "search", placeholder: "filter rows", ariaLabel: "Filter rows", oninput: () => {
    for (const { row, node } of rows) node.hidden = !row.some((cell) => shown(cell).toLowerCase().includes(filter.value.toLowerCase()));
  } });
  const said = make("p", { className: "hint" }, `${data.title}. ${data.note}`);
  body.replaceChildren(said, filter, scrolled(data.title, "", heads, rows.map(({ node }) => node)));
  return ["CSV", "MD", "TEX"].map((kind) => download(id, kind, (form) => URL.createObjectURL(new Blob([data[form]], { type: "text/plain" }))));
}

// A number, and on a click where it comes from.
function number(data, row, column, text, from) {
  if (!from) return text;
  const paper = typeof from === "string";
  const name = [data.header[column], ...data.header.slice(0, data.keys).map((key, i) => `${key} ${row[i]}`)].join(", ");
  return make("button", { type: "button", ariaHasPopup: "dialog", className: paper && from.includes("; beware: ") ? "odd" : "", onclick: () => {
    const runs = JSON.parse(find("#sources").textContent);
    const lines = paper ? make("p", {}, from) : make("ul", {}, from.map(([place, value]) => {
      const [run, command, href] = runs[place];
      return make("li", {}, make(href ? "a" : "span", { href }, make("bdi", {}, run)), `: ${value}`, make("code", {}, command));
    }));
    find("#source div").replaceChildren(make("h3", { id: "source-title" }, paper ? `Paper: ${text}` : text), make("p", { className: "hint" }, `${data.title} · ${name}`), lines);
    find("#source").showModal();
  } }, text);
}

const DRAW = { figures: figure, tables: table, stories: figure, examples };
const cards = all("[data-kind]");
const fields = [...form.elements];
const fits = (node) => ["dataset", "model"].every((key) => !form[key].value || !node.dataset[key] || node.dataset[key] === form[key].value);

// Show the chosen block of a card; what is closed is neither read nor drawn.
async function show(card) {
  const id = find("select.block", card).value;
  if (!id || !card.open) return;
  const data = JSON.parse(document.getElementById(id).textContent);
  find(".files", card).replaceChildren(...await DRAW[card.dataset.kind](find(".body", card), data, id.slice(5)));
}

// Filters and open cards are kept in the address.
function remember() {
  const kept = fields.map(({ name, type, value, checked }) => [name, type === "checkbox" ? (checked ? "" : "no") : value]);
  const open = cards.filter((card) => card.open && !("first" in card.dataset)).map((card) => card.id);
  for (const [name, value] of [...kept, ["open", open.join(" ")]]) value ? state.set(name, value) : state.delete(name);
  history.replaceState(null, "", "#" + state);
}

function filter() {
  document.body.classList.toggle("ours", form.paper?.checked === false);
  for (const card of cards) {
    const blocks = all("script", card).filter(fits);
    const select = find("select.block", card);
    const chosen = select.value;
    select.replaceChildren(...blocks.map((block) => make("option", { value: block.id, selected: block.id === chosen }, block.dataset.title)));
    card.hidden = !blocks.length;
    find("summary .count", card).textContent = blocks.length > 1 ? `${blocks.length} blocks` : blocks[0]?.dataset.title ?? "";
    show(card);
  }
  for (const row of all("#claims tbody tr")) row.hidden = !fits(row);
  for (const link of all("nav a")) link.parentNode.hidden = find(link.getAttribute("href"))?.hidden;
}

function reveal(hash) {
  const card = document.getElementById(decodeURIComponent(hash.slice(1)));
  if (card?.tagName === "DETAILS") card.open = true;
  card?.scrollIntoView();
}

for (const field of fields) {
  if (field.type === "checkbox") field.checked = state.get(field.name) !== "no";
  else field.value = state.get(field.name) ?? "";
  if (field.selectedIndex < 0) field.selectedIndex = 0; // what rows no longer have
}
for (const card of cards) {
  card.open ||= (state.get("open") ?? "").split(" ").includes(card.id);
  card.addEventListener("toggle", () => { remember(); show(card); });
  find("select.block", card).addEventListener("change", () => show(card));
}
form.addEventListener("change", () => { remember(); filter(); });
dark.addEventListener("change", filter);
for (const link of all("nav a")) link.addEventListener("click", (event) => { event.preventDefault(); reveal(link.hash); });
if (!location.hash.includes("=")) reveal(location.hash);
filter();
document.documentElement.dataset.ready = "yes";
