"use strict";

// What is sent, kept between two searches: a text or a picture as a data URL, and the key.
const at = (id) => document.getElementById(id);
let info = null, dims = [], input = null, running = null, timer = 0;

async function ask(path, body, signal) {
  const headers = body ? { "Content-Type": "application/json" } : {};
  if (at("key").value) headers.Authorization = `Bearer ${at("key").value}`;
  const options = { method: body ? "POST" : "GET", headers, signal };
  if (body) options.body = JSON.stringify(body);
  const response = await fetch(path, options);
  const answer = await response.json().catch(() => ({ error: { message: `status ${response.status}` } }));
  if (response.status === 401) at("for-key").hidden = false;
  if (!response.ok) throw new Error(answer.error.message);
  return answer;
}

function tell(text, isError = false) {
  at("status").textContent = text;
  at("status").toggleAttribute("data-error", isError);
}

async function begin() {
  try {
    info = await ask("info");
  } catch (error) {
    tell(error.message, true);
    return;
  } finally {
    document.documentElement.dataset.ready = "";
  }
  const { index } = info;
  at("model").textContent = info.model;
  document.title = `${info.model}: search by few dims`;
  const parts = [index ? `${index.vectors.toLocaleString("en")} vectors` : "no index"];
  if (index && index.recall !== null) parts.push(`built for a recall of ${index.recall}`);
  if (info.classes) parts.push(`${info.classes.toLocaleString("en")} classes`);
  at("about").textContent = parts.join(", ");
  at("for-text").hidden = !info.inputs.includes("text");
  at("for-image").hidden = !info.inputs.includes("image");
  dims = index && index.dims.length ? index.dims : info.dims;
  at("dims").max = dims.length - 1;
  at("dims").value = dims.length - 1;
  at("dims").disabled = dims.length < 2;
  showDims();
  tell("");
}

// At the right end nothing is said of dims, so that an index searches as it was built to.
const isWhole = () => Number(at("dims").value) === dims.length - 1;

function showDims() {
  const text = `${dims[at("dims").value]} of ${info.dims.at(-1)} dims`;
  at("shown-dims").value = text;
  at("dims").setAttribute("aria-valuetext", text);
}

async function search() {
  if (info === null) await begin();
  if (info === null || input === null) return;
  running?.abort();
  const mine = (running = new AbortController());
  const body = { inputs: [input] };
  if (!isWhole()) body.dimensions = dims[at("dims").value];
  tell("searching");
  const start = performance.now();
  try {
    const [found, classified] = await Promise.all([
      info.index && ask("search", body, mine.signal),
      info.classes && ask("classify", body, mine.signal),
    ]);
    const vector = !found && !classified && (await ask("embed", body, mine.signal)).embeddings[0];
    if (mine !== running) return;
    showClass(classified && classified.answers[0]);
    at("results").replaceChildren(...(found ? found.results[0].map(card) : []));
    const took = `${Math.round(performance.now() - start)} ms`;
    if (found) tell(`${found.results[0].length} results in ${took}`);
    else tell(vector ? `a vector of ${vector.length} numbers: ${vector.slice(0, 8).map((x) => x.toFixed(3)).join(", ")}` : took);
  } catch (error) {
    if (mine === running && error.name !== "AbortError") tell(error.message, true);
  }
}

function showClass(answer) {
  at("class").textContent = answer
    ? `class ${answer.name ?? answer.label}, ${(100 * answer.confidence).toFixed(1)} % sure at ${answer.dimensions} dims`
    : "";
}

function card(one) {
  const item = document.createElement("li");
  const shown = one.payload ?? {};
  if (typeof shown.image === "string" && shown.image.startsWith("data:image/")) {
    const picture = document.createElement("img");
    picture.src = shown.image;
    picture.alt = "";
    item.append(picture);
  }
  for (const text of [shown.label, shown.text, shown.id ?? `number ${one.id}`]) {
    if (text === undefined || text === null) continue;
    const line = document.createElement("div");
    line.textContent = text;
    item.append(line);
  }
  const line = document.createElement("div");
  line.className = "meta";
  line.textContent = `similarity ${one.similarity.toFixed(3)}`;
  item.append(line);
  return item;
}

function take(file) {
  if (!file || !file.type.startsWith("image/")) return;
  const reader = new FileReader();
  reader.onload = () => {
    input = { image: reader.result };
    at("chosen").src = reader.result;
    at("chosen").hidden = false;
    at("text").value = "";
    search();
  };
  reader.readAsDataURL(file);
}

at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (at("text").value) {
    input = { text: at("text").value };
    at("chosen").hidden = true;
  }
  search();
});
at("dims").addEventListener("input", () => {
  if (info === null) return;
  showDims();
  clearTimeout(timer);
  timer = setTimeout(search, 100);
});
at("image").addEventListener("change", (event) => take(event.target.files[0]));
document.addEventListener("paste", (event) => take(event.clipboardData.files[0]));
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  take(event.dataTransfer.files[0]);
});
begin();
