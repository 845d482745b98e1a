/** The page: which view the address names, and what a click on the map means in it. */

import { ask } from "./api.js";
import { closeCompare } from "./compare.js";
import { choosePlace, formView } from "./form.js";
import { listView } from "./list.js";
import { choose, startMap } from "./map.js";
import { alarm, areaText, by, calm, make, swatch, timeText } from "./page.js";
import { current, factList, jobView, runView } from "./run.js";

const VIEWS = { "": listView, maps: runView, jobs: jobView, new: formView };
const SHOWN = { class_id: "Class", from_class: "From", to_class: "To", part: "Part", before: "Before", after: "After" };

let leave = new AbortController();

async function show() {
  leave.abort();
  leave = new AbortController();
  const { signal } = leave;
  calm();
  closeCompare();
  closeCard();
  const [name, ...words] = location.hash.replace(/^#\/?/, "").split("/").map(decodeURIComponent);
  const view = VIEWS[name] ?? listView, panel = by("panel");
  document.body.dataset.view = VIEWS[name] ? name : "";
  panel.scrollTop = 0;
  panel.setAttribute("aria-busy", "true");
  by("instead").querySelector("img").hidden = true;
  try {
    await view(panel, signal, ...words);
  } catch (error) {
    if (signal.aborted) return;
    panel.replaceChildren(make("a.back", { href: "#/" }, "← All maps"));
    alarm(error);
  }
  if (signal.aborted) return;
  panel.setAttribute("aria-busy", "false");
  document.title = [panel.querySelector("h1")?.textContent, "geoseg"].filter((text, at, all) => text && all.indexOf(text) === at).join(" · ");
}

function onPick(found) {
  if (found?.polygon && current) return openCard(found.polygon);
  closeCard();
  if (!found?.place) return;
  if (document.body.dataset.view === "new") choosePlace(found.place.id);
  else if (found.place.kind === "run") location.hash = `#/maps/${found.place.id}`;
}

async function openCard(polygon) {
  const card = by("card"), { id, classes } = current;
  const own = classes.find((each) => each.value === polygon.class_id);
  const close = make("button.close", { type: "button", "aria-label": "Close", title: "Close (Esc)", onclick: closeCard }, "×");
  const draw = (told) => card.replaceChildren(
    make("div.card-head", {}, swatch(own?.color ?? "808080"), told.class_name ?? `Polygon ${polygon.id}`), close, factList(worded(told)));
  draw(polygon);
  card.hidden = false;
  choose(polygon.id);
  card.focus({ preventScroll: true });
  card.dataset.polygon = polygon.id;
  try {
    const feature = await ask(`runs/${id}/collections/polygons/items/${polygon.id}`);
    if (card.dataset.polygon === String(polygon.id)) draw({ id: feature.id, ...feature.properties });
  } catch (error) {
    alarm(error);
  }
}

/** Attributes as people read them. */
function worded(told) {
  const { class_name: _, ...rest } = told;
  const shown = Object.entries(rest).map(([name, value]) => {
    if (name === "area_m2") return ["Area", areaText(value / 1e6)];
    if (name.endsWith("_m")) return [plain(name.slice(0, -2)), `${Math.round(value).toLocaleString("en")} m`];
    if (typeof value === "string" && /^\d{4}-\d\d-\d\dT/.test(value)) return [plain(name), timeText(value)];
    return [SHOWN[name] ?? plain(name), typeof value === "number" ? Number(value.toFixed(4)) : value];
  });
  return Object.fromEntries(shown);
}

const plain = (name) => (name.charAt(0).toUpperCase() + name.slice(1)).replaceAll("_", " ");

function closeCard() {
  const card = by("card");
  if (card.hidden) return;
  card.hidden = true;
  choose(null);
  if (card.contains(document.activeElement) || document.activeElement === document.body) document.querySelector("#map canvas")?.focus({ preventScroll: true });
}

addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !by("token").open) closeCompare() || closeCard();
});
addEventListener("hashchange", show);

const without = startMap(onPick);
by("instead").hidden = !without;
by("instead").querySelector("p").textContent = without;
show();
