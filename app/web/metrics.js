// Readings of `GET /metrics`, and the rates, percentiles and shares between two of them. Knows no element.

const SAMPLE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;
// The routes whose requests carry images, over HTTP and over gRPC.
const WITH_IMAGES = /^\/(classify|predictions|preprocess|models\/|$)|\/infer$|:predict$|ModelInfer$|ModelStreamInfer$/;

/** Return the samples of a text in the format of Prometheus: a list of {name, labels, value}. */
export function parse(text) {
  return text.split("\n").map((line) => SAMPLE.exec(line)).filter(Boolean).map(([, name, labels = "", value]) => ({
    name,
    labels: Object.fromEntries([...labels.matchAll(LABEL)].map(([, key, content]) => [key, content])),
    value: Number(value.replace("Inf", "Infinity")),
  }));
}

/** Return what the page shows of a text of metrics, read at the time `now` in seconds. */
export function reading(text, now) {
  const found = { now, requests: 0, latency: histogram(), stages: {}, batches: histogram(), refused: {}, busy: {}, waiting: 0, decoding: 0 };
  for (const { name, labels, value } of parse(text)) {
    const isOfImages = labels.route && WITH_IMAGES.test(labels.route);
    if (name === "swin_requests_total" && isOfImages) found.requests += value;
    else if (name.startsWith("swin_request_seconds_") && isOfImages) add(found.latency, name, labels, value);
    else if (name.startsWith("swin_stage_seconds_")) add((found.stages[labels.stage] ??= histogram()), name, labels, value);
    else if (name.startsWith("swin_batch_size_")) add(found.batches, name, labels, value);
    else if (name === "swin_rejected_total") found.refused[labels.reason] = value;
    else if (name === "swin_utilization_ratio") found.busy[labels.component] = value;
    else if (name === "swin_queue_depth") found.waiting = value;
    else if (name === "swin_decode_in_progress") found.decoding = value;
  }
  return found;
}

const histogram = () => ({ count: 0, sum: 0, buckets: new Map() });

function add(target, name, { le }, value) {
  if (name.endsWith("_bucket")) {
    const bound = Number(le.replace("+Inf", "Infinity"));
    target.buckets.set(bound, (target.buckets.get(bound) ?? 0) + value);
  } else if (name.endsWith("_count")) target.count += value;
  else if (name.endsWith("_sum")) target.sum += value;
}

/** Return whether the counters of the service began again between two readings. */
export const hasRestarted = (before, after) => after.requests < before.requests || after.latency.count < before.latency.count;

/** Return the change of a histogram between two readings. */
export function change(before, after) {
  const buckets = new Map([...after.buckets].map(([bound, count]) => [bound, count - (before?.buckets.get(bound) ?? 0)]));
  return { count: after.count - (before?.count ?? 0), sum: after.sum - (before?.sum ?? 0), buckets };
}

/** Return a quantile of a histogram, interpolated within its bucket as Prometheus does; NaN if it is empty. */
export function quantile({ count, buckets }, share) {
  if (!count) return NaN;
  const bounds = [...buckets].sort(([one], [other]) => one - other);
  let [lower, below] = [0, 0];
  for (const [bound, total] of bounds) {
    if (total >= share * count) {
      return bound === Infinity ? lower : lower + ((bound - lower) * (share * count - below)) / (total - below || 1);
    }
    [lower, below] = [bound, total];
  }
  return lower;
}

/** Return whether a quantile lies in the first bucket, whose lower end is not known, and the end of that bucket. */
export function belowFirst({ buckets }, seconds) {
  const first = Math.min(...buckets.keys());
  return [seconds <= first, first];
}

/** Return the numbers of a histogram's buckets, not cumulated: a list of [upper bound, count]. */
export function columns({ buckets }) {
  const bounds = [...buckets].sort(([one], [other]) => one - other);
  return bounds.map(([bound, total], place) => [bound, total - (place ? bounds[place - 1][1] : 0)]);
}

/** Return the mean of a histogram; NaN if it is empty. */
export const mean = ({ count, sum }) => (count ? sum / count : NaN);

/** Return the number of refusals of all reasons. */
export const refusals = ({ refused }) => Object.values(refused).reduce((sum, value) => sum + value, 0);
