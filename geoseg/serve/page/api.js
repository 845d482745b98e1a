/** Requests to the service: with the token, and with its problem documents as errors. */

import { by } from "./page.js";

const KEY = "geoseg-token";
const ROOT = new URL(".", document.baseURI).href;
let asking = null;

export const address = (path) => new URL(path, ROOT).href;

/** Headers for an address: the token is for this service alone. */
export function headersFor(url) {
  const token = sessionStorage.getItem(KEY);
  return token && url.startsWith(ROOT) ? { Authorization: `Bearer ${token}` } : {};
}

export const hasToken = () => sessionStorage.getItem(KEY) !== null;

/** What the service refused, in its own words. */
export class Refusal extends Error {
  constructor(status, title, detail) {
    super(detail || title);
    Object.assign(this, { status, title, detail });
  }
}

/** The answer of the service; a token is asked for where it wants one. */
export async function request(path, { method = "GET", body, headers = {} } = {}) {
  const url = address(path);
  const sent = body === undefined ? {} : { body: JSON.stringify(body) };
  const kind = body === undefined ? {} : { "Content-Type": "application/json" };
  for (;;) {
    const own = headersFor(url);
    const answer = await fetch(url, { method, ...sent, headers: { Accept: "*/*", ...kind, ...headers, ...own } }).catch(() => {
      throw new Refusal(0, "No connection", "The service does not answer.");
    });
    if (answer.ok) return answer;
    const told = await answer.json().catch(() => ({}));
    if (answer.status !== 401) throw new Refusal(answer.status, told.title ?? `Error ${answer.status}`, told.detail ?? "");
    await tokenAfter(own.Authorization);
  }
}

export const ask = async (path, options) => (await request(path, options)).json();

/** Waits until there is another token than the one that was refused; many requests ask once. */
function tokenAfter(refused) {
  const now = sessionStorage.getItem(KEY);
  if (now && `Bearer ${now}` !== refused) return Promise.resolve();
  sessionStorage.removeItem(KEY);
  asking ??= new Promise((resolve) => {
    const dialog = by("token"), field = by("token-text");
    by("token-wrong").textContent = refused ? "The service does not know this token." : "";
    field.value = "";
    dialog.addEventListener("cancel", (event) => event.preventDefault());
    dialog.addEventListener("close", () => {
      sessionStorage.setItem(KEY, field.value.trim());
      field.value = "";
      asking = null;
      resolve();
    }, { once: true });
    dialog.showModal();
  });
  return asking;
}

/** Hands a file of the service to the browser; a plain link could not bring the token along. */
export async function download(path, name) {
  const url = URL.createObjectURL(await (await request(path)).blob());
  const link = document.createElement("a");
  Object.assign(link, { href: url, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
