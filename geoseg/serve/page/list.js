/** The first view: jobs that are at work, finished maps, and jobs that ended otherwise. */

import { ask } from "./api.js";
import { fit, showPlaces, showRun } from "./map.js";
import { alarm, by, dayText, make, say, timeText } from "./page.js";

const QUICK = 1500, SLOW = 10_000; // milliseconds between looks while something is at work, and while nothing is
const MOST = 100;
export const STATES = { accepted: "waiting", running: "at work", successful: "finished", failed: "failed", dismissed: "dismissed" };
export const PROCESSES = { segment: "Map", change: "Change", vectorize: "Polygons", evaluate: "Score" };

let known = new Map(); // states at the last look

export const isOpen = ({ status }) => status === "accepted" || status === "running";

export async function listView(panel, stop) {
  const body = make("div", { id: "lists" });
  panel.replaceChildren(
    make("header.top", {}, make("h1", {}, "geoseg"), make("a.button.main", { href: "#/new/segment" }, "New job")),
    body,
  );
  showRun(null);
  known = new Map();
  let first = true, seen = "";
  const look = async () => {
    if (stop.aborted) return;
    let next = SLOW;
    try {
      const [jobs, runs, scenes] = await Promise.all([ask(`jobs?limit=${MOST}`), ask(`search?limit=${MOST}`), ask("scenes")]);
      if (stop.aborted) return;
      tellEnds(jobs.jobs);
      const now = JSON.stringify([jobs.jobs, runs.features.map((run) => run.id)]);
      if (now !== seen) redraw(body, jobs.jobs, runs, look);
      seen = now;
      const places = [...scenes.features.map((each) => ({ ...each, kind: "scene" })), ...runs.features.map((each) => ({ ...each, kind: "run" }))];
      showPlaces(places);
      if (first) fit(places.map((place) => place.bbox));
      first = false;
      if (jobs.jobs.some(isOpen)) next = QUICK;
    } catch (error) {
      alarm(error);
    }
    clearTimeout(look.timer);
    if (!stop.aborted) look.timer = setTimeout(look, next);
  };
  stop.addEventListener("abort", () => clearTimeout(look.timer));
  await look();
}

function tellEnds(jobs) {
  for (const job of jobs) {
    if (known.has(job.jobID) && known.get(job.jobID) !== job.status) say(`${nameOf(job)}: ${STATES[job.status]}`);
    known.set(job.jobID, job.status);
  }
}

/** Draws the lists anew; what had the focus has it again. */
function redraw(body, jobs, runs, look) {
  const held = document.activeElement?.dataset.key;
  const titles = new Map(runs.features.map((run) => [run.id, run]));
  const open = jobs.filter(isOpen), ended = jobs.filter((job) => !isOpen(job) && !titles.has(job.jobID));
  body.replaceChildren(
    ...section("At work", open.map((job) => jobRow(job, look))),
    ...section("Maps", runs.features.map(runRow)),
    ...section("Other jobs", ended.map((job) => jobRow(job, look))),
  );
  if (runs.numberMatched > MOST) body.append(make("p.faint", {}, `The newest ${MOST} of ${runs.numberMatched} maps.`));
  if (!body.children.length) {
    body.append(make("div.empty", {}, make("p", {}, "No maps yet."), make("a.button", { href: "#/new/segment" }, "Map a scene")));
  }
  if (held) [...body.querySelectorAll("[data-key]")].find((each) => each.dataset.key === held)?.focus();
}

function section(title, rows) {
  return rows.length ? [make("section", {}, make("h2", {}, title), make("ul.rows", {}, rows))] : [];
}

function runRow(run) {
  const { title, "geoseg:model": model, start_datetime: start, end_datetime: end, datetime } = run.properties;
  const days = [...new Set([start, end].filter(Boolean).map(dayText))].join(" – ") || dayText(datetime);
  return make("li", {}, make("a.row", { href: `#/maps/${run.id}`, "data-key": run.id },
    make("span.name", {}, title ?? run.id),
    make("span.faint", {}, [run["collection"] === "changes" ? "change" : "map", days, model].filter(Boolean).join(" · ")),
  ));
}

const nameOf = (job) => `${PROCESSES[job.processID] ?? job.processID}, ${timeText(job.created)}`;

function jobRow(job, look) {
  const open = isOpen(job);
  const bar = job.status === "running" && make("progress", { max: 100, value: job.progress, "aria-label": `Progress of ${nameOf(job)}` });
  return make("li.row", {},
    make("span.name", {}, make("a", { href: `#/jobs/${job.jobID}`, "data-key": job.jobID }, nameOf(job))),
    make(`span.state.${job.status}`, {}, STATES[job.status] + (job.status === "running" ? `, ${job.progress} %` : "")),
    bar,
    make("span.faint.message", {}, job.message === STATES[job.status] ? "" : job.message),
    dismissButton(job, open ? "Stop" : "Remove", look),
  );
}

export function dismissButton(job, text, then) {
  const dismiss = async (event) => {
    event.currentTarget.disabled = true;
    try {
      await ask(`jobs/${job.jobID}`, { method: "DELETE" });
      await then();
      by("panel").focus();
    } catch (error) {
      event.target.disabled = false;
      alarm(error);
    }
  };
  return make("button.quiet", { type: "button", "data-key": `end ${job.jobID}`, "aria-label": `${text}: ${nameOf(job)}`, onclick: dismiss }, text);
}
