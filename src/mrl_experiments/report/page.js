// The page: contents, filters, and putting it together.
function contents() {
  const link = (item) => make("li", { "data-dataset": item.dataset, "data-model": item.model }, make("a", { href: "#" + encodeURIComponent(item.id) }, item.block));
  find("#contents nav").append(make("ul", {}, make("li", {}, make("a", { href: "#claims" }, "The paper’s claims"))));
  for (const [title, items] of [["Figures", report.charts], ["Tables", report.tables]]) {
    const groups = Map.groupBy(items, (item) => item.title);
    const lists = [...groups].map(([name, group]) => make("div", { class: "group" }, make("h3", {}, name), make("ul", {}, ...group.map(link))));
    find("#contents nav").append(make("h2", {}, title), ...lists);
  }
  if (innerWidth < 960) find("#contents").open = false;
}

function filter() {
  const wanted = { dataset: find("#dataset").value, model: find("#model").value };
  for (const node of document.querySelectorAll("[data-dataset]")) node.hidden = Object.entries(wanted).some(([key, value]) => value && node.dataset[key] !== value);
  const cards = [...document.querySelectorAll(".card")];
  for (const group of document.querySelectorAll(".group")) group.hidden = !find("li:not([hidden])", group);
  find("#shown").value = `${cards.filter((card) => !card.hidden).length} of ${cards.length} shown`;
  refresh();
}

function refresh() {
  if (find("#paper").checked) hidden.delete("paper");
  else hidden.add("paper");
  document.body.classList.toggle("ours-only", hidden.has("paper"));
  // The second of two fixed columns stands beside the first.
  for (const table of document.querySelectorAll("#tables table")) table.style.setProperty("--first", find("th.key", table).getBoundingClientRect().width + "px");
  for (const card of document.querySelectorAll("#figures .card:not([hidden])")) {
    draw(card);
    legend(card);
  }
}

function options(id, values) {
  find(id).append(make("option", { value: "" }, "all"), ...values.map((value) => make("option", { value }, value)));
  find(id).addEventListener("change", filter);
}

const cards = [...report.charts, ...report.tables];
find("#summary").textContent = report.summary;
options("#dataset", [...new Set(cards.map((card) => card.dataset))].sort());
options("#model", [...new Set(cards.map((card) => card.model))].sort());
find("#paper").addEventListener("change", refresh);
find("#filters").addEventListener("submit", (event) => event.preventDefault());
find("#notes").hidden = !report.notes.length;
find("#notes ul").append(...report.notes.map((note) => make("li", {}, note)));
showClaims(report.claims);
find("#figures .cards").append(...report.charts.map(figureCard));
find("#tables").append(...report.tables.map(tableCard));
find("#source").addEventListener("click", (event) => { if (event.target === find("#source")) find("#source").close(); });
contents();
filter();
let waiting;
addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(refresh, 80); });
document.documentElement.dataset.ready = "yes";
