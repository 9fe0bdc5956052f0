// The answer to an image: its best classes as bars, and the time of each stage.

import { byId, fixed, make, milliseconds, percent } from "./dom.js";

// The stages in the order in which they happen, each with the class of its color.
export const STAGES = ["read", "decode", "preprocess", "queue", "infer", "rank", "evidence"];

/** Show the best classes. `onSelect(prediction)` is called for the first one, and whenever another one is selected. */
export function showBars(predictions, onSelect) {
  const bars = byId("bars");
  const select = (selected) => {
    for (const button of bars.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(Number(button.dataset.index) === selected.index));
    }
    onSelect(selected);
  };
  // Elements that stay are reused, so that a bar moves to its new length.
  predictions.forEach((prediction, place) => {
    const item = bars.children[place] ?? bars.appendChild(emptyBar());
    const button = item.firstElementChild;
    button.dataset.index = prediction.index;
    button.onclick = () => select(prediction);
    const [label, score, bar] = button.children;
    label.textContent = prediction.label;
    score.textContent = percent(prediction.score);
    bar.firstElementChild.style.width = `${prediction.score * 100}%`;
  });
  while (bars.children.length > predictions.length) bars.lastElementChild.remove();
  byId("no-answer").hidden = true;
  select(predictions[0]);
  const [best] = predictions;
  byId("announcement").textContent = `${best.label}, ${fixed(best.score * 100)} percent`;
}

function emptyBar() {
  return make("li", {}, make("button", { type: "button" },
    make("span", { class: "label" }), make("span", { class: "number" }), make("span", { class: "track" }, make("span"))));
}

/** Remove the classes and the times. */
export function clearAnswer() {
  byId("bars").replaceChildren();
  byId("no-answer").hidden = false;
  byId("timings").hidden = true;
  byId("announcement").textContent = "";
}

/** Show the field Server-Timing of a response as a waterfall. `seconds` is the time that the browser waited. */
export function showTimings(field, seconds) {
  const found = Object.fromEntries([...field.matchAll(/(\w+);dur=([\d.]+)/g)].map(([, name, value]) => [name, value / 1000]));
  const rows = STAGES.filter((stage) => stage in found).map((stage) => [stage, found[stage]]);
  const inside = rows.reduce((sum, [, value]) => sum + value, 0);
  let start = 0;
  byId("waterfall").tBodies[0].replaceChildren(...rows.map(([name, value]) => {
    const bar = make("span", { class: `bar-of ${name}` });
    bar.style.marginInlineStart = `${(start / inside) * 100}%`;
    bar.style.width = `${(value / inside) * 100}%`;
    start += value;
    return make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, bar), make("td", { class: "number" }, milliseconds(value)));
  }));
  byId("total").textContent = `${milliseconds(inside)} in the service; the browser waited ${milliseconds(Math.max(seconds, inside))}`;
  byId("timings").hidden = false;
}
