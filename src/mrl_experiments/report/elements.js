"use strict";
// What the page is made of: elements, colours, marks.
const report = JSON.parse(document.getElementById("data").textContent);
const hidden = new Set(); // names of lines; "paper" for all of the paper's
const find = (selector, root = document) => root.querySelector(selector);

function make(name, attributes = {}, ...children) {
  const vector = ["svg", "g", "path", "line", "text", "circle"].includes(name);
  const node = vector ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value !== false && value != null) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child != null));
  return node;
}

const identity = (series) => series.line + "|" + series.note;
const visible = (series) => !hidden.has(identity(series)) && !(series.paper && hidden.has("paper"));
const colours = (name) => `--light:${report.lines[name].light};--dark:${report.lines[name].dark}`;
const plain = (value) => String(+value.toPrecision(4));

// Marks, one shape a method: colour is never the only difference.
const polygon = (x, y, r, n, turn = 0) => "M" + Array.from({ length: n }, (_, i) => {
  const angle = turn - Math.PI / 2 + (2 * Math.PI * i) / n;
  return `${(x + r * Math.cos(angle)).toFixed(1)},${(y + r * Math.sin(angle)).toFixed(1)}`;
}).join("L") + "Z";
const cross = (x, y, r, turn) => {
  const w = r / 2.4;
  const ring = [[-w, -r], [w, -r], [w, -w], [r, -w], [r, w], [w, w], [w, r], [-w, r], [-w, w], [-r, w], [-r, -w], [-w, -w]];
  const [c, s] = [Math.cos(turn), Math.sin(turn)];
  return "M" + ring.map(([a, b]) => `${(x + a * c - b * s).toFixed(1)},${(y + a * s + b * c).toFixed(1)}`).join("L") + "Z";
};
const star = (x, y, r) => "M" + Array.from({ length: 10 }, (_, i) => {
  const [angle, radius] = [-Math.PI / 2 + (Math.PI * i) / 5, i % 2 ? r * 0.45 : r * 1.25];
  return `${(x + radius * Math.cos(angle)).toFixed(1)},${(y + radius * Math.sin(angle)).toFixed(1)}`;
}).join("L") + "Z";
const MARKS = {
  s: (x, y, r) => polygon(x, y, r * 1.25, 4, Math.PI / 4), D: (x, y, r) => polygon(x, y, r * 1.25, 4),
  "^": (x, y, r) => polygon(x, y, r * 1.25, 3), v: (x, y, r) => polygon(x, y, r * 1.25, 3, Math.PI),
  "<": (x, y, r) => polygon(x, y, r * 1.25, 3, -Math.PI / 2), ">": (x, y, r) => polygon(x, y, r * 1.25, 3, Math.PI / 2),
  h: (x, y, r) => polygon(x, y, r * 1.15, 6), d: (x, y, r) => polygon(x, y, r, 4), p: (x, y, r) => polygon(x, y, r * 1.15, 5), P: (x, y, r) => cross(x, y, r * 1.1, 0),
  X: (x, y, r) => cross(x, y, r * 1.1, Math.PI / 4), "*": star, ".": (x, y, r) => polygon(x, y, r * 0.75, 16),
  o: (x, y, r) => polygon(x, y, r, 20),
};
const mark = (shape, x, y, r = 4) => make("path", { class: "mark", d: (MARKS[shape] || MARKS.o)(x, y, r) });
