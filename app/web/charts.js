// Charts as SVG. A chart of time has the present at its right edge.

import { make, makeSvg } from "./dom.js";

// Seconds without a reading that are drawn as a gap.
const GAP = 5;
const [WIDTH, HEIGHT] = [600, 100];

/** Return a line for a list of [time, value], with the area under it. `times` are the ends of the chart in seconds. */
export function line(points, times, label) {
  const runs = runsOf(points);
  const place = placer(times, largest(points));
  return picture(label, runs.flatMap((run) => [
    makeSvg("path", { class: "area", d: `${path(run.map(place))}L${place([run.at(-1)[0], 0])}L${place([run[0][0], 0])}Z` }),
    makeSvg("path", { class: "line", d: path(run.map(place)) }),
  ]));
}

/**
 * Return areas on top of each other, and the largest sum. `layers` is a list of {name, points}, all with the same
 * times; the name is the class of the color. `ends` are the ends of the chart in seconds.
 */
export function stacked(layers, ends, label) {
  const times = layers[0]?.points.map(([time]) => time) ?? [];
  const sums = times.map(() => 0);
  const bands = layers.map(({ name, points }) => {
    const band = points.map(([time, value], at) => {
      const lower = sums[at];
      sums[at] += Number.isFinite(value) ? value : 0;
      return [time, lower, Number.isFinite(value) ? sums[at] : NaN];
    });
    return { name, band };
  });
  const top = Math.max(...sums, 0) || 1;
  const place = placer(ends, top);
  const shapes = bands.flatMap(({ name, band }) =>
    runsOf(band.map(([time, lower, upper]) => [time, upper, lower])).map((run) =>
      makeSvg("path", { class: `band ${name}`, d: `${path(run.map(place))}L${run.toReversed().map(([time, , lower]) => place([time, lower])).join("L")}Z` })));
  return { chart: picture(label, shapes), top };
}

/** Return columns for a list of [name, value]. */
export function bars(rows, label) {
  const top = Math.max(...rows.map(([, value]) => value), 0) || 1;
  return make("div", { class: "columns-chart", role: "img", "aria-label": label }, rows.map(([name, value]) => {
    const column = make("span", { class: "column" });
    column.style.height = `${(value / top) * 100}%`;
    return make("span", { class: "column-box" }, make("span", { class: "column-room" }, column), make("span", { class: "small number" }, name));
  }));
}

/** Return one horizontal bar for a share of 1, with a mark at a limit. */
export function gauge(share, limit) {
  const bar = make("span", { class: share >= limit ? "full" : "" });
  bar.style.width = `${Math.min(share, 1) * 100}%`;
  const mark = make("span", { class: "limit" });
  mark.style.insetInlineStart = `${limit * 100}%`;
  return make("span", { class: "track gauge", "aria-hidden": "true" }, bar, mark);
}

function picture(label, shapes) {
  return makeSvg("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": label }, shapes);
}

const largest = (points) => Math.max(...points.map(([, value]) => (Number.isFinite(value) ? value : 0)), 0) || 1;

/** Return a function from [time, value] to a place in the picture. */
function placer([first, last], top) {
  return ([time, value]) => `${((WIDTH * (time - first)) / (last - first)).toFixed(1)},${(HEIGHT - 1 - (value / top) * (HEIGHT - 4)).toFixed(1)}`;
}

const path = (places) => `M${places.join("L")}`;

/** Return the points without missing values, in runs without gaps. */
function runsOf(points) {
  const runs = [];
  for (const point of points) {
    if (!Number.isFinite(point[1])) continue;
    const last = runs.at(-1)?.at(-1);
    if (last && point[0] - last[0] <= GAP) runs.at(-1).push(point);
    else runs.push([point]);
  }
  return runs;
}
