// Small helpers for elements and numbers. Knows nothing about the service.

const SVG = "http://www.w3.org/2000/svg";

/** Return the element with this id. */
export const byId = (id) => document.getElementById(id);

/**
 * Return a new element. Attributes that are functions are listeners (`onclick`), `true` sets an empty
 * attribute, and `false`, `null` and `undefined` set none. Children are nodes or texts.
 */
export function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** Return a new element of SVG, as `make`. */
export function makeSvg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child != null));
  return element;
}

/** Return a table with a head. A row is a list of cells; the first one is the row's header. */
export function table(title, head, rows) {
  return make("table", {},
    make("caption", { class: "unseen" }, title),
    make("thead", {}, make("tr", {}, head.map((text) => make("th", { scope: "col" }, text)))),
    make("tbody", {}, rows.map(([first, ...rest]) =>
      make("tr", {}, make("th", { scope: "row" }, first), rest.map((cell) => make("td", {}, cell))))));
}

/** Return content that scrolls sideways where the window is narrow. */
export const scrolled = (name, content) => make("div", { class: "scrolled", role: "group", tabindex: "0", "aria-label": name }, content);

/** Show a sentence in an element, or hide the element if there is no sentence. */
export function say(element, sentence) {
  element.replaceChildren(sentence ?? "");
  element.hidden = !sentence;
}

/** Return a number with a fixed number of decimals, or a dash if there is none. */
export function fixed(value, decimals = 0) {
  return Number.isFinite(value) ? value.toLocaleString("en", { minimumFractionDigits: decimals, maximumFractionDigits: decimals }).replace("-", "−") : "–";
}

/** Return a share of 1 as a percentage. */
export const percent = (share, decimals = 1) => `${fixed(share * 100, decimals)} %`;

/** Return seconds in milliseconds, with more decimals for small values. */
export function milliseconds(seconds) {
  const value = seconds * 1000;
  return `${fixed(value, value < 10 ? 2 : value < 100 ? 1 : 0)} ms`;
}

/** Return a number of bytes in the largest unit that fits. */
export function bytes(count) {
  const units = ["bytes", "KiB", "MiB", "GiB"];
  const power = Math.min(Math.floor(Math.log2(Math.max(count, 1)) / 10), 3);
  return `${fixed(count / 1024 ** power, power ? 1 : 0)} ${units[power]}`;
}

/** Return a number with three significant digits, as `4.2e-6` if it is very small. */
export function scientific(value) {
  return value === 0 ? "0" : Math.abs(value) < 1e-3 ? value.toExponential(1) : String(Number(value.toPrecision(3)));
}
