/** Elements of the page, and how numbers and times are written in it. */

export const by = (id) => document.getElementById(id);

/** An element with attributes (`on...` are listeners, null and false are left out) and children; texts stay texts. */
export function make(name, attributes = {}, ...children) {
  const [tag, ...classes] = name.split(".");
  const element = document.createElement(tag || "div");
  if (classes.length) element.className = classes.join(" ");
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function swatch(color) {
  const element = make("span.swatch");
  if (color) element.style.backgroundColor = `#${color}`;
  return element;
}

const number = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

export function areaText(km2) {
  if (km2 === 0) return "0";
  if (km2 < 0.01) return `${number.format(km2 * 1e6)} m²`;
  if (km2 < 1) return `${(km2 * 100).toFixed(2)} ha`;
  return km2 < 100 ? `${km2.toFixed(2)} km²` : `${number.format(km2)} km²`;
}

export function shareText(share) {
  return share > 0 && share < 0.001 ? "< 0.1 %" : `${(100 * share).toFixed(1)} %`;
}

/** A moment, to the minute, in the reader's own time; a day alone as it is. */
export function timeText(text) {
  const moment = new Date(text);
  if (Number.isNaN(moment.getTime())) return String(text ?? "");
  return moment.toLocaleString("en-GB", { day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit" });
}

export const dayText = (text) => (text ? String(text).slice(0, 10) : "");

export function say(text) {
  by("said").textContent = text;
}

/** Shows what went wrong until it is closed, or the page shows something else. */
export function alarm(error) {
  const close = make("button.close", { type: "button", "aria-label": "Close", onclick: calm }, "×");
  by("alert").replaceChildren(make("div.problem", {}, ...wordsOf(error), close));
}

export function calm() {
  by("alert").replaceChildren();
}

export function wordsOf(error) {
  return [make("b", {}, error.title ?? "Something went wrong"), make("span", {}, error.detail ?? error.message)];
}
