// Tables, and where each number comes from.
function tableCard(table) {
  const keys = table.index.map((name) => make("th", { class: "key", scope: "col" }, name));
  const names = table.columns.map((name) => make("th", { scope: "col" }, name));
  const rows = table.rows.map((row, i) => {
    const apart = table.index.length > 1 && i > 0 && row.key[0] !== table.rows[i - 1].key[0];
    return make("tr", { class: apart ? "apart" : null }, ...row.key.map((key) => make("th", { class: "key", scope: "row" }, key)),
      ...row.cells.map((cell, j) => make("td", {}, number(table, row, j, cell.ours, false), table.paper[j] ? make("small", {}, number(table, row, j, cell.paper, true)) : null)));
  });
  return make("article", { class: "card", id: table.id, "data-dataset": table.dataset, "data-model": table.model }, head(table, ["md", "csv", "tex"]),
    make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `${table.title}, ${table.block}` },
      make("table", {}, make("thead", {}, make("tr", {}, ...keys, ...names)), make("tbody", {}, ...rows))));
}

function number(table, row, column, cell, paper) {
  if (!cell) return make("span", { class: "none", title: paper ? "not in the paper" : "not measured" }, "–");
  const [mean, deviation] = cell.text.split(" ± ");
  const name = `${table.columns[column]}, ${row.key.map((key, i) => `${table.index[i]} ${key}`).join(", ")}`;
  return make("button", { type: "button", "aria-haspopup": "dialog", "data-odd": paper && !!report.sources[cell.source].anomaly, onclick: () => explain(table, name, cell, paper) },
    mean, deviation ? make("span", { class: "dev" }, ` ± ${deviation}`) : null);
}

function explain(table, name, cell, paper) {
  const source = report.sources[cell.source];
  const lines = paper
    ? [make("p", {}, source.text), source.anomaly ? make("p", {}, `Beware: ${source.anomaly}.`) : null]
    : [make("ul", {}, ...source.map((run, i) => make("li", {}, run.href ? make("a", { href: run.href }, make("bdi", {}, run.run)) : make("bdi", {}, run.run), `: ${cell.values[i]}`, make("code", {}, run.command))))];
  find("#source div").replaceChildren(make("h3", { id: "source-title" }, `${paper ? "Paper: " : ""}${cell.text} ${table.unit}`.trim()), make("p", { class: "where" }, `${table.title} · ${table.block} · ${name}`), ...lines.filter(Boolean));
  find("#source").showModal();
}
