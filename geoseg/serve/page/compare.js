/** Both dates of a change over each other, with a line that can be dragged; the pictures are those of its compare.html. */

import { request } from "./api.js";
import { by, make } from "./page.js";

export async function compareDates(path) {
  const text = await (await request(path)).text();
  const bare = text.replace(/<(style|script)>[^]*?<\/\1>/g, ""); // scripts would not run, styles be refused: only pictures count
  const page = new DOMParser().parseFromString(bare, "text/html");
  const [after, before, change] = page.querySelectorAll("#stage img");
  if (!change) throw new Error("The run's page of both dates holds no pictures.");
  const picture = (from, id) => make("img", { src: from.getAttribute("src"), alt: from.alt, id, draggable: "false" });
  const pictures = [picture(after, "after"), picture(before, "before"), picture(change, "changed")];
  await Promise.all(pictures.map((image) => image.decode()));
  show(pictures);
}

function show(pictures) {
  const position = make("input", { type: "range", min: 0, max: 100, value: 50, "aria-label": "Before and after" });
  const shown = make("input", { type: "checkbox", id: "show-change", checked: true });
  const area = make("div.dates", {}, pictures, make("span.line", { "aria-hidden": "true" }));
  const { naturalWidth, naturalHeight } = pictures[0];
  area.style.aspectRatio = `${naturalWidth} / ${naturalHeight}`;
  area.style.setProperty("--shape", naturalWidth / naturalHeight);
  const draw = () => {
    area.style.setProperty("--at", `${position.value}%`);
    pictures[2].hidden = !shown.checked;
    position.setAttribute("aria-valuetext", `${position.value} % before, the rest after`);
  };
  const follow = ({ clientX }) => {
    const box = area.getBoundingClientRect();
    position.value = (100 * (clientX - box.left)) / box.width;
    draw();
  };
  area.addEventListener("pointerdown", (event) => {
    area.setPointerCapture(event.pointerId);
    follow(event);
  });
  area.addEventListener("pointermove", (event) => area.hasPointerCapture(event.pointerId) && follow(event));
  for (const input of [position, shown]) input.addEventListener("input", draw);
  const place = by("compare");
  const close = make("button.close", { type: "button", "aria-label": "Back to the map", onclick: closeCompare }, "×");
  const foot = make("div.foot", {}, make("span", {}, "Before"), position, make("span", {}, "After"), make("label", {}, shown, "Change"));
  place.replaceChildren(area, foot, close);
  place.hidden = false;
  draw();
  position.focus({ preventScroll: true });
}

export function closeCompare() {
  const place = by("compare");
  if (place.hidden) return false;
  place.hidden = true;
  place.replaceChildren();
  by("open-compare")?.focus();
  return true;
}
