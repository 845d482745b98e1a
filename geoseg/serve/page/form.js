/** The view that asks for a job: fields made of what the service says a process takes. */

import { ask } from "./api.js";
import { fit, seenBox, showPlaces, showRun } from "./map.js";
import { PROCESSES } from "./list.js";
import { by, make, wordsOf } from "./page.js";

const FIRST = ["scene", "before", "after", "run", "truth", "model", "bbox", "class_column", "class_value"];
const SCENES = new Set(["scene", "before", "after"]);
const LABELS = { bbox: "Box", crs: "CRS", assume_crs: "Assumed CRS", run: "Map", nodata: "No data", min_area: "Smallest area" };
const CLICKED = "Choose it here, or click it on the map.";
const NOTES = { scene: CLICKED, before: `The earlier date. ${CLICKED}`, after: `The later date. ${CLICKED}`, run: CLICKED.replace("it here", "a finished map here"), truth: "A GeoJSON file of polygons." };
const NOT_SET = "";

export async function formView(panel, stop, process) {
  const [listed, told, scenes, runs] = await Promise.all([
    ask("processes"), ask(`processes/${encodeURIComponent(process)}`), ask("scenes"), ask("search?limit=100"),
  ]);
  if (stop.aborted) return;
  const options = { run: runs.features.map((run) => [run.id, run.properties.title ?? run.id]) };
  const fields = Object.entries(told.inputs).map(([name, input]) => makeField(name, input, options));
  const main = fields.filter((field) => FIRST.includes(field.name)).sort((one, other) => FIRST.indexOf(one.name) - FIRST.indexOf(other.name));
  const rest = fields.filter((field) => !FIRST.includes(field.name));
  const wrong = make("div.wrong", { id: "wrong", role: "alert" });
  const send = make("button.button.main", {}, "Start");
  const form = make("form", { onsubmit: (event) => submit(event, process, fields, wrong, send) },
    ...main.map((field) => field.element), make("details", {}, make("summary", {}, "More options"), ...rest.map((field) => field.element)),
    wrong, make("div.send", {}, send, make("a", { href: "#/" }, "Cancel")));
  panel.replaceChildren(make("header", {}, make("a.back", { href: "#/" }, "← All maps"), make("h1", {}, "New job")),
    choices(listed.processes, process), make("p.faint", {}, told.description), form);
  showRun(null);
  const takesRun = "run" in told.inputs, places = (takesRun ? runs : scenes).features;
  showPlaces(places.map((each) => ({ ...each, kind: takesRun ? "run" : "scene" })));
  const placed = fields.filter(({ name }) => name === "run" || SCENES.has(name)).map((field) => field.input);
  const show = () => fit(places.filter((place) => placed.some((input) => input.value === place.id)).map((place) => place.bbox));
  for (const input of placed) input.addEventListener("change", show);
  show();
  panel.querySelector(".choices [aria-current]")?.focus({ preventScroll: true });
}

function choices(processes, chosen) {
  return make("nav.choices", { "aria-label": "What to do" }, processes.map(({ id, title }) =>
    make("a", { href: `#/new/${id}`, title, "aria-current": id === chosen ? "page" : null }, PROCESSES[id] ?? title)));
}

/** Chooses a scene, or a run, that was clicked on the map. */
export function choosePlace(id) {
  const select = document.querySelector(["scene", "after", "run"].map((name) => `select[name="${name}"]`).join());
  if (!select || select.value === id) return;
  select.value = id;
  select.dispatchEvent(new Event("change"));
}

/** A field: { name, input, element, read }; what `read` gives is left out of the request where it is undefined. */
function makeField(name, { title, description, minOccurs, schema }, options) {
  const id = `input-${name}`, required = minOccurs > 0;
  const common = { id, name, required, "aria-describedby": `${id}-told` };
  const { input, read, more } = control(name, schema, common, options);
  const label = make("label", { for: id }, LABELS[name] ?? title);
  const note = make("small", { id: `${id}-told` }, NOTES[name] ?? description.replace(", or a link", ""));
  const isCheck = schema.type === "boolean";
  return { name, input, read, element: make(isCheck ? "div.field.check" : "div.field", {}, ...(isCheck ? [input, label] : [label, input]), more, note) };
}

function control(name, schema, common, options) {
  const choices = schema.const !== undefined ? [schema.const] : schema.enum;
  if (name === "run" || SCENES.has(name) || choices) return choice(schema, common, options[name] ?? (choices ?? []).map((value) => [value, String(value)]));
  if (schema.type === "boolean") {
    const input = make("input", { ...common, required: false, type: "checkbox", checked: schema.default === true });
    return { input, read: () => (input.checked === (schema.default === true) ? undefined : input.checked) };
  }
  if (schema.type === "integer" || schema.type === "number") return figure(schema, common);
  if (name === "bbox") return box(common);
  if (schema.type === "array") return several(schema, common);
  if (schema.type === "object") return name === "truth" ? file(common) : jsonText(common);
  const input = make("input", { ...common, type: "text", maxlength: schema.maxLength, pattern: schema.pattern, spellcheck: "false" });
  return { input, read: () => input.value.trim() || undefined };
}

function choice(schema, common, pairs) {
  const open = !common.required && schema.default === undefined ? [make("option", { value: NOT_SET }, "as it is")] : [];
  const entries = pairs.map(([value, text]) => make("option", { value, selected: value === schema.default }, text));
  const input = make("select", common, open, entries);
  return { input, read: () => {
    const value = pairs.find(([each]) => String(each) === input.value)?.[0];
    return value === schema.default ? undefined : value;
  } };
}

function figure(schema, common) {
  const whole = schema.type === "integer";
  const least = schema.minimum ?? (whole && schema.exclusiveMinimum !== undefined ? schema.exclusiveMinimum + 1 : undefined);
  const input = make("input", { ...common, type: "number", step: whole ? 1 : "any", min: least, max: schema.maximum, value: schema.default });
  return { input, read: () => (input.value === NOT_SET || Number(input.value) === schema.default ? undefined : Number(input.value)) };
}

function box(common) {
  const input = make("input", { ...common, type: "text", inputmode: "text", placeholder: "west, south, east, north", spellcheck: "false" });
  const take = () => (input.value = seenBox()?.join(", ") ?? input.value);
  const more = make("button.quiet", { type: "button", onclick: take }, "What the map shows");
  const read = () => {
    if (!input.value.trim()) return undefined;
    const numbers = input.value.split(/[\s,;]+/).filter(Boolean).map(Number);
    if (numbers.length !== 4 || numbers.some(Number.isNaN)) throw Object.assign(new Error("four numbers: west, south, east, north"), { title: "Box" });
    return numbers;
  };
  return { input, read, more };
}

function several(schema, common) {
  const boxes = schema.items.enum.map((value) => make("input", { type: "checkbox", value, checked: schema.default?.includes(value) }));
  const input = make("div.several", { id: common.id, role: "group", "aria-describedby": common["aria-describedby"] },
    boxes.map((each) => make("label", {}, each, each.value)));
  return { input, read: () => {
    const chosen = boxes.filter((each) => each.checked).map((each) => each.value);
    return JSON.stringify(chosen) === JSON.stringify(schema.default) ? undefined : chosen;
  } };
}

const parsed = (text, title) => {
  try {
    return JSON.parse(text);
  } catch {
    throw Object.assign(new Error("is no JSON"), { title });
  }
};

function jsonText(common) {
  const input = make("input", { ...common, type: "text", placeholder: "{ }", spellcheck: "false" });
  return { input, read: () => (input.value.trim() ? parsed(input.value, common.name) : undefined) };
}

function file(common) {
  const input = make("input", { ...common, type: "file", accept: ".geojson,.json,application/geo+json" });
  return { input, read: async () => (input.files.length ? parsed(await input.files[0].text(), input.files[0].name) : undefined) };
}

async function submit(event, process, fields, wrong, send) {
  event.preventDefault();
  wrong.replaceChildren();
  send.disabled = true;
  try {
    const inputs = {};
    for (const field of fields) {
      const value = await field.read();
      if (value !== undefined) inputs[field.name] = value;
    }
    await ask(`processes/${process}/execution`, { method: "POST", body: { inputs }, headers: { Prefer: "respond-async" } });
    location.hash = "#/";
  } catch (error) {
    wrong.replaceChildren(make("div.problem", {}, ...wordsOf(error)));
    by("wrong").scrollIntoView({ block: "nearest" });
  }
  send.disabled = false;
}
