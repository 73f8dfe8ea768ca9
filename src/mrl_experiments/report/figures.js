// Figures: drawing, reading values by pointer and keyboard, the legend.
function steps(low, high) {
  const raw = (high - low) / 7 || 1;
  const unit = 10 ** Math.floor(Math.log10(raw));
  const step = unit * [1, 2, 5, 10].find((m) => m * unit >= raw);
  const ticks = [];
  const first = Math.ceil(low / step);
  // Counted: beyond 2^53, adding a step may change nothing.
  for (let i = 0; i < 9 && (first + i) * step <= high + 1e-9; i++) ticks.push(+((first + i) * step).toFixed(6));
  return ticks;
}

function scales(chart, points, width, height, margin) {
  const xs = points.map((p) => Math.log(p.x));
  const ys = points.flatMap((p) => [p.y - (p.deviation || 0), p.y + (p.deviation || 0)]);
  const [left, right] = [Math.min(...xs), Math.max(...xs)];
  const [low, high] = [Math.min(...ys), Math.max(...ys)];
  const room = (high - low || Math.abs(high) || 1) * 0.06;
  const [bottom, top] = [low - room, high + room];
  const x = (value) => margin.left + ((Math.log(value) - left) / (right - left || 1)) * (width - margin.left - margin.right);
  const y = (value) => height - margin.bottom - ((value - bottom) / (top - bottom)) * (height - margin.top - margin.bottom);
  const every = chart.x.base;
  const exponents = [Math.ceil(left / Math.log(every) - 1e-9), Math.floor(right / Math.log(every) + 1e-9)];
  let xTicks = [];
  for (let e = exponents[0]; e <= exponents[1]; e++) xTicks.push(every ** e);
  if (xTicks.length < 2) xTicks = [Math.exp(left), ...xTicks, Math.exp(right)];
  return { x, y, xTicks, yTicks: steps(bottom, top) };
}

function draw(card) {
  const chart = card.chart;
  const holder = find(".plot", card);
  const width = Math.max(260, holder.clientWidth);
  const height = Math.round(Math.min(380, Math.max(250, width * 0.62)));
  const series = chart.series.filter(visible);
  const points = series.flatMap((s) => s.points);
  const direct = width >= 460;
  const margin = { left: 44, right: direct ? 128 : 14, top: 10, bottom: 40 };
  const root = make("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", tabindex: 0, "aria-label": `${chart.title}, ${chart.block}` });
  holder.replaceChildren(root);
  card.places = [];
  if (!points.length) return root.append(make("text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, "All methods are hidden"));
  const { x, y, xTicks, yTicks } = scales(chart, points, width, height, margin);
  const [edge, floor] = [width - margin.right, height - margin.bottom];
  for (const tick of yTicks)
    root.append(make("line", { class: "grid", x1: margin.left, x2: edge, y1: y(tick), y2: y(tick) }), make("text", { x: margin.left - 8, y: y(tick) + 4, "text-anchor": "end" }, plain(tick)));
  root.append(make("line", { class: "axis", x1: margin.left, x2: edge, y1: floor, y2: floor }));
  const skip = Math.ceil((xTicks.length * 30) / (edge - margin.left));
  xTicks.forEach((tick, i) => {
    root.append(make("line", { class: "axis", x1: x(tick), x2: x(tick), y1: floor, y2: floor + 4 }));
    if (i % skip === 0) root.append(make("text", { x: x(tick), y: floor + 17, "text-anchor": "middle" }, plain(tick)));
  });
  root.append(make("text", { x: (margin.left + edge) / 2, y: height - 5, "text-anchor": "middle" }, chart.x.label));
  for (const s of [...series].sort((a, b) => b.paper - a.paper)) root.append(drawSeries(card, s, x, y));
  if (direct) label(root, series, x, y, edge, margin.top, floor);
  card.halo = root.appendChild(make("circle", { class: "halo", r: 7, visibility: "hidden" }));
}

function drawSeries(card, series, x, y) {
  const group = make("g", { class: `series${series.paper ? " theirs" : ""}`, style: colours(series.line) });
  const at = series.points.map((p) => ({ px: x(p.x), py: y(p.y), point: p, series }));
  if (series.joined) group.append(make("path", { class: "line", d: "M" + at.map((p) => `${p.px.toFixed(1)},${p.py.toFixed(1)}`).join("L") }));
  for (const { px, py, point } of at) {
    if (point.deviation && !series.paper) group.append(make("line", { x1: px, x2: px, y1: y(point.y - point.deviation), y2: y(point.y + point.deviation) }));
    group.append(mark(series.marker, px, py));
  }
  card.places.push(...at);
  return group;
}

// Names at the ends of our lines, pushed apart where they would overlap.
function label(root, series, x, y, edge, top, floor) {
  const ends = series.filter((s) => !s.paper && s.joined).map((s) => ({ s, last: s.points.at(-1) }));
  const spots = ends.map(({ s, last }) => ({ s, x: x(last.x), y: y(last.y), at: y(last.y) })).sort((a, b) => a.at - b.at);
  for (let i = 1; i < spots.length; i++) spots[i].at = Math.max(spots[i].at, spots[i - 1].at + 13);
  const over = spots.length ? Math.max(0, spots.at(-1).at - floor) : 0;
  for (const spot of spots) {
    const group = make("g", { class: "series", style: colours(spot.s.line) });
    const start = edge + 10;
    group.append(make("path", { class: "line", style: "stroke-width:1;opacity:.45", d: `M${spot.x + 6},${spot.y}L${start - 3},${spot.at - over}` }));
    group.append(make("text", { class: "direct", x: start, y: spot.at - over + 4 }, spot.s.short.length > 19 ? spot.s.short.slice(0, 18) + "…" : spot.s.short));
    root.append(group);
  }
}

function pick(card, place, clientX, clientY) {
  card.current = place;
  card.halo.setAttribute("visibility", "visible");
  card.halo.setAttribute("cx", place.px);
  card.halo.setAttribute("cy", place.py);
  const { point, series } = place;
  const tip = find("#tip");
  tip.replaceChildren(
    make("span", {}, series.label), make("br"), make("b", {}, point.text + (card.chart.y.unit === "%" ? " %" : " " + card.chart.y.unit)),
    make("div", {}, `${point.dim} dims${card.chart.x.key === "dim" ? "" : `, ${plain(point.x)} ${card.chart.x.unit}`}${point.setting ? ", " + point.setting : ""}`),
    make("div", {}, series.paper ? "published" + (point.anomaly ? "; beware: " + point.anomaly : "") : point.count > 1 ? `mean of ${point.count} runs` : "1 run"));
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  tip.style.left = Math.max(8, Math.min(clientX + 14, innerWidth - box.width - 8)) + "px";
  tip.style.top = Math.max(8, clientY - box.height - 12) + "px";
}

function leave(card) {
  find("#tip").hidden = true;
  card.current = null;
  card.halo?.setAttribute("visibility", "hidden");
}

function hover(card, event) {
  const root = find("svg", card).getBoundingClientRect();
  const [px, py] = [event.clientX - root.left, event.clientY - root.top];
  const near = card.places.reduce((best, place) => {
    const distance = (place.px - px) ** 2 + (place.py - py) ** 2;
    return distance < best.distance ? { place, distance } : best;
  }, { distance: 900 });
  if (near.place) pick(card, near.place, event.clientX, event.clientY);
  else leave(card);
}

// Arrow keys: left and right along a line, up and down between lines.
function step(card, event) {
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  if (event.key === "Escape") return leave(card);
  if (!moves[event.key] || !card.places.length) return;
  event.preventDefault();
  const series = [...new Set(card.places.map((p) => p.series))].sort((a, b) => a.paper - b.paper);
  const now = card.current || card.places.find((p) => p.series === series[0]);
  const [along, across] = card.current ? moves[event.key] : [0, 0];
  const target = series[(series.indexOf(now.series) + across + series.length) % series.length];
  const row = card.places.filter((p) => p.series === target);
  const here = across ? row.reduce((a, b) => (Math.abs(b.px - now.px) < Math.abs(a.px - now.px) ? b : a)) : now;
  const place = row[Math.max(0, Math.min(row.length - 1, row.indexOf(here) + along))];
  const root = find("svg", card).getBoundingClientRect();
  pick(card, place, root.left + place.px, root.top + place.py);
}

function legend(card) {
  const holder = find(".legend", card);
  const seen = new Map();
  for (const s of card.chart.series) if (!seen.has(identity(s)) || !s.paper) seen.set(identity(s), s);
  const button = (key, text, icon) => make("button", { type: "button", "data-key": key, "aria-pressed": String(!hidden.has(key)), onclick: () => {
    if (!hidden.delete(key)) hidden.add(key);
    refresh();
    find(`[data-key="${CSS.escape(key)}"]`, holder)?.focus();
  } }, icon, text);
  const icon = (s, paper) => make("svg", { viewBox: "0 0 12 12", "aria-hidden": "true" }, make("g", { class: `series${paper ? " theirs" : ""}`, style: colours(s.line) }, mark(s.marker, 6, 6)));
  const buttons = [...seen].map(([key, s]) => button(key, s.paper ? s.label : s.name, icon(s, s.paper)));
  holder.replaceChildren(...buttons);
}

function figureCard(chart) {
  const card = make("article", { class: "card", id: chart.id, "data-dataset": chart.dataset, "data-model": chart.model },
    head(chart, ["png", "svg"]), make("div", { class: "plot" }), make("div", { class: "legend", role: "group", "aria-label": "Methods" }));
  card.chart = chart;
  const plot = find(".plot", card);
  plot.addEventListener("pointermove", (event) => hover(card, event));
  plot.addEventListener("pointerdown", (event) => hover(card, event));
  plot.addEventListener("pointerleave", () => leave(card));
  plot.addEventListener("keydown", (event) => step(card, event));
  plot.addEventListener("focusout", () => leave(card));
  return card;
}

function head(item, kinds) {
  const files = kinds.map((kind) => make("a", { href: `${item.folder}/${encodeURIComponent(item.id)}.${kind}`, "aria-label": `${item.title}, ${item.block}, as ${kind}` }, kind));
  return make("div", { class: "head" }, make("div", {}, make("h3", {}, item.title), make("p", { class: "where" }, item.subtitle)), make("div", { class: "files" }, ...files));
}
