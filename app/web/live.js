// The view Live: what the service does at this moment and did in the last ten minutes, from /metrics and /model/report.

import { STAGES } from "./answer.js";
import { bars, gauge, line, stacked } from "./charts.js";
import { byId, fixed, make, milliseconds, percent, say, scrolled, table } from "./dom.js";
import { belowFirst, change, columns, hasRestarted, mean, quantile, reading, refusals } from "./metrics.js";
import { ask, askJson, Problem } from "./service.js";

// Milliseconds between two readings.
const INTERVAL = 1000;
// Seconds that the charts show, once there are as many.
const [SPAN, MIN_SPAN] = [600, 60];
// Seconds over which rates and percentiles are taken.
const WINDOW = 10;
// The fewest columns in the chart of batch sizes.
const LEAST_SIZES = 5;
// The utilization from which the service calls a component its limit.
const LIMIT = 0.85;
const COMPONENTS = { engine: "engines", decode: "decode threads", http_worker: "HTTP workers", batcher: "batcher", cpu: "CPUs" };

let history = []; // readings of the last ten minutes, each with what is derived from it
let isShown = false;
let timer = null;

/** Build the view. It asks only while it is shown. */
export function openLive() {
  document.addEventListener("visibilitychange", update);
  return { show: (shown) => { isShown = shown; update(); }, restart: update };
}

function update() {
  clearTimeout(timer);
  if (isShown && !document.hidden) tick();
}

async function tick() {
  clearTimeout(timer);
  try {
    const [text, report] = await Promise.all([ask("metrics").then((response) => response.text()), askJson("model/report")]);
    record(reading(text, Date.now() / 1000));
    draw(report);
    say(byId("live-problem"), null);
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    say(byId("live-problem"), error.status === 401 ? null : `${error.message} The numbers are the last ones.`);
  }
  clearTimeout(timer);
  if (isShown && !document.hidden) timer = setTimeout(tick, INTERVAL);
}

function record(now) {
  if (history.length && hasRestarted(history.at(-1), now)) history = [];
  history = history.filter((each) => now.now - each.now <= SPAN);
  const before = history.find((each) => now.now - each.now <= WINDOW) ?? now;
  const seconds = now.now - before.now;
  const latency = change(before.latency, now.latency);
  const rate = (after, earlier) => (seconds ? (after - earlier) / seconds : NaN);
  history.push({
    ...now,
    perSecond: rate(now.requests, before.requests),
    refusedPerSecond: rate(refusals(now), refusals(before)),
    p50: quantile(latency, 0.5),
    p99: quantile(latency, 0.99),
    stageChanges: Object.fromEntries(STAGES.map((stage) => [stage, change(before.stages[stage], now.stages[stage] ?? { count: 0, sum: 0, buckets: new Map() })])),
  });
}

const pointsOf = (pick) => history.map((each) => [each.now, pick(each)]);

function draw(report) {
  const now = history.at(-1);
  const [limit, facts = ""] = split(report.bottleneck);
  if (byId("bottleneck").textContent !== limit) byId("bottleneck").textContent = limit;
  byId("bottleneck-facts").textContent = facts;
  drawStats(now);
  drawStatsTable();
  drawStages(now);
  drawBatches();
  drawUtilization(now);
  drawRefusals(now);
}

/** Return the verdict as a headline and its facts. */
function split(verdict) {
  const [limit, ...rest] = verdict.split(": ");
  const sentence = limit[0].toUpperCase() + limit.slice(1);
  const [facts, advice] = rest;
  return [advice ? `${sentence}: ${advice}` : sentence, facts];
}

function drawStats(now) {
  const stats = [
    ["Requests per second", fixed(now.perSecond, 1), (each) => each.perSecond, "requests with images, mean of 10 s"],
    ["Latency p50 / p99", `${short(now.p50)} / ${short(now.p99)} ms`, (each) => each.p99, "of requests with images; the line is p99"],
    ["Waiting", fixed(now.waiting + now.decoding), (each) => each.waiting + each.decoding, `${fixed(now.waiting)} for an engine, ${fixed(now.decoding)} in decoding`],
    ["Refused per second", fixed(now.refusedPerSecond, 1), (each) => each.refusedPerSecond, `${fixed(refusals(now))} since the start`],
  ];
  byId("stats").replaceChildren(...stats.map(([title, value, pick, note]) =>
    make("div", { class: "panel" },
      make("h3", {}, title),
      make("p", { class: "value number" }, value),
      line(pointsOf(pick), ends(), `${title} in the last ten minutes, now ${value}`),
      make("p", { class: "small quiet" }, note))));
}

/** Show the values of the four numbers once a minute, for readers of tables. */
function drawStatsTable() {
  const rows = eachMinute().map((each) => [
    clock(each),
    fixed(each.perSecond, 1), `${short(each.p50)} ms`, `${short(each.p99)} ms`, fixed(each.waiting + each.decoding), fixed(each.refusedPerSecond, 1),
  ]);
  withTable(byId("stats-table"), [], scrolled("The last ten minutes", table("The last ten minutes", ["time", "requests/s", "p50", "p99", "waiting", "refused/s"], rows)));
}

/** Return the last reading of each minute, the latest first. */
const eachMinute = () => history.filter((each, place) => minuteOf(each) !== minuteOf(history[place + 1])).toReversed();
const minuteOf = (each) => each && Math.floor(each.now / 60);
const clock = (each) => new Date(each.now * 1000).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });

const short = (seconds) => fixed(seconds * 1000, seconds < 0.01 ? 1 : 0);

function drawStages(now) {
  const layers = STAGES.map((name) => ({ name, points: pointsOf((each) => mean(each.stageChanges[name])) }))
    .filter(({ points }) => points.some(([, value]) => value > 0))
    .map(({ name, points }) => ({ name, points: points.map(([time, value], at) => [time, Number.isFinite(value) || !hasAny(at) ? value : 0]) }));
  const { chart, top } = stacked(layers, ends(), "Mean time in each stage in the last ten minutes");
  const percentiles = STAGES.map((stage) => {
    const seconds = now.stageChanges[stage];
    const name = make("span", { class: "legend" }, make("span", {}, make("span", { class: `swatch ${stage}` }), stage));
    return [name, orDash(mean(seconds)), ...[0.5, 0.99].map((share) => quantileOf(seconds, share))];
  });
  const byMinute = eachMinute().map((each) => [clock(each), ...STAGES.map((stage) => orDash(mean(each.stageChanges[stage])))]);
  panel("stages-chart", "Latency by stage", `Mean time of an image in each stage; the top is ${milliseconds(top)}.`, [
    layers.length ? chart : empty(),
    timeAxis(),
    table("Latency by stage in the last 10 seconds", ["last 10 s", "mean", "p50", "p99"], percentiles),
  ], scrolled("Mean time by minute", table("Mean time in each stage", ["time", ...STAGES], byMinute)));
}

/** Return a quantile in words: of the first bucket, only its upper end is known. */
function quantileOf(histogram, share) {
  const seconds = quantile(histogram, share);
  const [isBelow, first] = belowFirst(histogram, seconds);
  return isBelow ? `< ${fixed(first * 1000, 1)} ms` : orDash(seconds);
}

const orDash = (seconds) => (Number.isFinite(seconds) ? milliseconds(seconds) : "–");

/** Return whether any stage has images in a reading: the other stages are then 0, not missing. */
const hasAny = (at) => Object.values(history[at].stageChanges).some(({ count }) => count > 0);

function drawBatches() {
  const oldest = history.find((each) => history.at(-1).now - each.now <= 60);
  const sizes = columns(change(history.length > 1 ? oldest.batches : null, history.at(-1).batches));
  const last = Math.max(sizes.findLastIndex(([, count]) => count > 0), LEAST_SIZES - 1);
  const shown = sizes.slice(0, last + 1).map(([bound, count], place) => [sizeName(bound, sizes[place - 1]?.[0] ?? 0), count]);
  const total = shown.reduce((sum, [, count]) => sum + count, 0);
  panel("batches-chart", "Batch sizes", history.length > 1 ? `${fixed(total)} batches in the last minute.` : `${fixed(total)} batches since the start.`, [
    bars(shown, "Number of batches by size"),
    make("p", { class: "small quiet axis" }, make("span", {}, "images in a batch")),
  ], table("Batches by size", ["images", "batches"], shown.map(([name, count]) => [name, fixed(count)])));
}

function sizeName(bound, below) {
  if (bound === Infinity) return `> ${below}`;
  return bound - below === 1 ? String(bound) : `–${bound}`;
}

function drawUtilization(now) {
  const shown = Object.entries(COMPONENTS).filter(([name]) => name !== "batcher" || now.busy.batcher > 0);
  const rows = shown.map(([name, words]) => [words, now.busy[name] ?? 0]);
  const list = make("ul", { class: "gauges" }, rows.map(([words, share]) =>
    make("li", {}, make("span", {}, words), gauge(share, LIMIT), make("span", { class: "number" }, percent(share, 0)))));
  panel("utilization-chart", "Utilization", "Mean of the last 10 seconds. From 85 % on, a component limits the service.", [list],
    table("Utilization", ["component", "busy"], rows.map(([words, share]) => [words, percent(share, 1)])));
}

function drawRefusals(now) {
  const rows = Object.entries(now.refused).filter(([, count]) => count > 0).sort(([, one], [, other]) => other - one);
  const content = rows.length
    ? make("ul", { class: "reasons" }, rows.map(([reason, count]) => make("li", {}, make("code", {}, reason), make("span", { class: "number" }, fixed(count)))))
    : make("p", { class: "quiet" }, "The service has refused no image.");
  panel("refusals-chart", "Refused, by reason", "Images that were not classified since the start.", [content],
    table("Refusals by reason", ["code", "images"], rows.map(([reason, count]) => [reason, fixed(count)])));
}

function panel(id, title, note, content, rows) {
  withTable(byId(id), [make("h3", {}, title), make("p", { class: "small quiet" }, note), ...content], rows);
}

/** Fill a place with content, and with a table behind a toggle. The toggle keeps its state and its focus. */
function withTable(place, content, rows) {
  const isOpen = place.querySelector("details")?.open ?? false;
  const hasFocus = place.contains(document.activeElement);
  const toggle = make("summary", {}, "Table");
  place.replaceChildren(...content, make("details", { open: isOpen }, toggle, rows));
  if (hasFocus) toggle.focus();
}

const empty = () => make("p", { class: "quiet nothing" }, "No image in the last ten minutes.");

/** Return the ends of a chart of time: the chart grows from one minute to ten. */
function ends() {
  const [first, last] = [history[0].now, history.at(-1).now];
  return [Math.max(Math.min(first, last - MIN_SPAN), last - SPAN), last];
}

function timeAxis() {
  const [first, last] = ends();
  const minutes = Math.round((last - first) / 60);
  return make("p", { class: "small quiet axis" }, make("span", {}, `${minutes} min ago`), make("span", {}, "now"));
}
