// The view Model: the model card, from the manifest that the service verified at its start.

import { byId, bytes, fixed, make, makeSvg, percent, scientific, scrolled, table } from "./dom.js";
import { ask } from "./service.js";

// The most labels that the search shows.
const MAX_LABELS = 60;
// Pixels of the pictures of preprocessing.
const SIDE = 144;
// The largest side of an image, in pixels, whose pixels are shown as squares.
const PIXEL_ART = 64;
const FAMILIES = { swin: "Swin Transformer", swin_v2: "Swin Transformer V2" };

/** Open the view: `use` sets the model that `GET /model` describes, and `show` draws it when it is first seen. */
export function openCard(onSample) {
  let [drawn, model, isShown] = [null, null, false];
  const update = () => {
    if (!isShown || !model || drawn === model) return;
    drawn = model;
    draw(model, onSample);
  };
  return {
    use: (described) => { model = described; update(); },
    show: (shown) => { isShown = shown; update(); },
  };
}

/** Draw the card. `onSample(blob, name)` tries a golden sample. */
function draw(model, onSample) {
  const { manifest } = model;
  byId("card").replaceChildren(
    summary(manifest),
    section("Architecture", architecture(manifest)),
    section("Preprocessing", preprocessing(model)),
    section("Golden samples", golden(model, onSample)),
    section("Proof", proof(manifest)),
    section("Precision", precision(manifest)),
    section("Devices", devices(model)),
    section("Labels", labels(model.labels)),
  );
}

const section = (title, ...content) => make("section", { class: "panel", "aria-label": title }, make("h3", {}, title), ...content.flat());
const facts = (rows) => make("dl", { class: "facts" }, rows.map(([term, value]) => make("div", {}, make("dt", {}, term), make("dd", {}, value))));
const hash = (digest) => make("code", { class: "hash" }, digest);

function summary({ architecture, classes, evaluation, source, input_height: height, input_width: width, files }) {
  return section("Summary", facts([
    ["Accuracy", evaluation ? accuracy(evaluation) : "The bundle has no evaluation."],
    ["Network", `${FAMILIES[architecture.family]}, ${fixed(architecture.parameters)} parameters`],
    ["Input", `${width} × ${height} pixels`],
    ["Classes", fixed(classes)],
    ["Source", `${source.id}${source.revision ? ` at ${source.revision}` : ""} (${source.kind})`],
    ["SHA-256 of the source's weights", hash(source.weights_sha256)],
    ["SHA-256 of the graph", hash(files["model.onnx"])],
    ["Preprocessing from", source.preprocessing_from],
    ["Labels from", source.labels_from],
  ]));
}

/** Return the accuracy with its 95 % interval (Wilson 1927). */
function accuracy({ dataset, images, top1 }) {
  const z = 1.959964;
  const middle = (top1 + z ** 2 / (2 * images)) / (1 + z ** 2 / images);
  const half = (z / (1 + z ** 2 / images)) * Math.sqrt((top1 * (1 - top1)) / images + z ** 2 / (4 * images ** 2));
  return [
    make("strong", { class: "value" }, percent(top1, 2)),
    ` top-1, 95 % interval ${percent(middle - half, 2)} to ${percent(middle + half, 2)}. ${fixed(images)} images: ${dataset}.`,
  ];
}

/** Return the way of an image through the network. Each stage is drawn as its map of tokens, divided into windows. */
function architecture({ architecture: net, input_height: height, input_width: width, classes, evidence }) {
  const sizes = net.depths.map((_, stage) => [height, width].map((side) => Math.ceil(side / net.patch_size / 2 ** stage)));
  const stages = net.depths.map((depth, stage) => {
    const [rows, columns] = sizes[stage];
    const [windowRows, windowColumns] = net.window_sizes[stage];
    return make("li", { class: "block" },
      drawMap(sizes[stage], net.window_sizes[stage], sizes[0]),
      make("strong", {}, `Stage ${stage + 1}`),
      make("span", { class: "small quiet number" }, `${columns} × ${rows} tokens of ${net.embed_dim * 2 ** stage}`),
      make("span", { class: "small quiet" }, `${depth} blocks, ${net.num_heads[stage]} heads, windows of ${windowColumns} × ${windowRows}`));
  });
  return make("ol", { class: "blocks" },
    make("li", { class: "block end" }, make("strong", {}, "Image"), make("span", { class: "small quiet" }, `${width} × ${height} × 3, in patches of ${net.patch_size} × ${net.patch_size}`)),
    stages,
    make("li", { class: "block end" }, make("strong", {}, "Head"), make("span", { class: "small quiet" }, `mean of ${evidence.height * evidence.width} tokens, then ${fixed(classes)} classes`)));
}

function drawMap([rows, columns], [windowRows, windowColumns], [mostRows, mostColumns]) {
  const scale = 72 / Math.max(mostRows, mostColumns);
  const [width, height] = [Math.max(columns * scale, 6), Math.max(rows * scale, 6)];
  const lines = [];
  for (let x = windowColumns; x < columns; x += windowColumns) lines.push(`M${(x * width) / columns} 0V${height}`);
  for (let y = windowRows; y < rows; y += windowRows) lines.push(`M0 ${(y * height) / rows}H${width}`);
  return makeSvg("svg", { class: "map", width: width + 2, height: height + 2, viewBox: `-1 -1 ${width + 2} ${height + 2}`, "aria-hidden": "true" },
    makeSvg("rect", { width, height }), makeSvg("path", { d: lines.join("") }));
}

/** Return the golden sample after each step of preprocessing. The pictures arrive later. */
function preprocessing({ manifest, golden: [sample] }) {
  const { preprocessing: recipe, input_height: height, input_width: width } = manifest;
  const steps = [["Image", "upright, in sRGB"], [resizeTitle(recipe.resize), `${recipe.interpolation} resampling`]];
  if (recipe.crop) steps.push(["Crop", `the center, ${recipe.crop.width} × ${recipe.crop.height}`]);
  const numbers = (values) => (new Set(values).size === 1 ? scientific(values[0]) : values.map(scientific).join(", "));
  steps.push(["Normalize", `(${scientific(recipe.scale)} · level − ${numbers(recipe.mean)}) / ${numbers(recipe.std)}`]);
  const figures = steps.map(([title, words]) => make("figure", {},
    make("canvas", { width: SIDE, height: SIDE, "aria-hidden": "true" }),
    make("figcaption", {}, make("strong", {}, title), make("span", { class: "small quiet" }, words))));
  drawSteps(figures.map((figure) => figure.firstElementChild), sample, recipe, [width, height], figures);
  return make("div", { class: "steps" }, figures);
}

function resizeTitle(resize) {
  switch (resize.mode) {
    case "squash": return `Resize to ${resize.width} × ${resize.height}`;
    case "shorter_side": return `Resize the shorter side to ${resize.size}`;
    case "cover": return `Resize to cover ${resize.width} × ${resize.height}`;
    default: return `Resize and pad to ${resize.width} × ${resize.height}`;
  }
}

async function drawSteps(canvases, sample, recipe, size, figures) {
  const blob = await (await ask(`model/${sample.file}`)).blob();
  const preview = await ask("preprocess", { method: "POST", body: blob, headers: { "Content-Type": "application/octet-stream" } });
  const region = preview.headers.get("X-Image-Region").split(",").map(Number);
  const input = await createImageBitmap(await preview.blob());
  const image = await createImageBitmap(blob).catch(() => input);
  const normalized = normalize(input, recipe);
  const whole = recipe.crop ? [resized(image, recipe.resize), input] : [input];
  const pictures = [image, ...whole, normalized.picture];
  canvases.forEach((canvas, step) => drawPicture(canvas, pictures[step]));
  if (recipe.crop) frame(canvases[1], whole[0], region);
  figures[0].lastElementChild.lastElementChild.textContent = `${image.width} × ${image.height} pixels, upright, in sRGB`;
  figures[0].parentElement.dataset.drawn = "true";
  figures.at(-1).lastElementChild.append(make("span", { class: "small quiet number" }, `${fixed(normalized.low, 2)} to ${fixed(normalized.high, 2)}`));
}

/** Return the image in the shape that the resize gives it. Only squashing changes the shape. */
function resized(image, { mode, width, height }) {
  if (mode !== "squash") return image;
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext("2d").drawImage(image, 0, 0, width, height);
  return canvas;
}

function drawPicture(canvas, picture) {
  const scale = SIDE / Math.max(picture.width, picture.height);
  const [width, height] = [picture.width * scale, picture.height * scale];
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = Math.max(picture.width, picture.height) > PIXEL_ART;
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, (SIDE - width) / 2, (SIDE - height) / 2, width, height);
}

/** Frame the region that the crop keeps. */
function frame(canvas, { width, height }, [left, top, across, down]) {
  const scale = SIDE / Math.max(width, height);
  const [x, y] = [(SIDE - width * scale) / 2, (SIDE - height * scale) / 2];
  const context = canvas.getContext("2d");
  context.strokeStyle = "#d55e00";
  context.lineWidth = 3;
  context.strokeRect(x + left * width * scale, y + top * height * scale, across * width * scale, down * height * scale);
}

/** Return the normalized values: their extremes, and a picture with gray at 0, orange above and blue below. */
function normalize(input, { scale, mean, std }) {
  const canvas = new OffscreenCanvas(input.width, input.height);
  const context = canvas.getContext("2d");
  context.drawImage(input, 0, 0);
  const pixels = context.getImageData(0, 0, input.width, input.height);
  const values = [];
  for (let at = 0; at < pixels.data.length; at += 4) {
    const channels = [0, 1, 2].map((channel) => (scale * pixels.data[at + channel] - mean[channel]) / std[channel]);
    values.push(...channels);
  }
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) [low, high] = [Math.min(low, value), Math.max(high, value)];
  const strongest = Math.max(-low, high) || 1;
  for (let at = 0; at < values.length; at += 3) {
    const level = (values[at] + values[at + 1] + values[at + 2]) / 3 / strongest;
    const color = level > 0 ? [213, 94, 0] : [0, 114, 178];
    color.forEach((value, channel) => { pixels.data[(at / 3) * 4 + channel] = 235 + (value - 235) * Math.abs(level); });
  }
  context.putImageData(pixels, 0, 0);
  return { picture: canvas, low, high };
}

function golden({ golden: samples }, onSample) {
  const list = make("ul", { class: "samples" }, samples.map((sample) => {
    const name = sample.file.split("/").at(-1);
    const canvas = make("canvas", { width: 64, height: 64, "aria-hidden": "true" });
    const button = make("button", { type: "button", "aria-label": `Try ${name}: ${sample.label}, ${percent(sample.score)}` },
      canvas, make("span", { class: "label" }, sample.label), make("span", { class: "small quiet number" }, percent(sample.score)));
    drawSample(button, canvas, sample, name, onSample);
    return make("li", {}, button);
  }));
  return [make("p", { class: "small quiet" }, "The service reproduced these answers on its device before it was ready. Select one to try it."), list];
}

async function drawSample(button, canvas, { file }, name, onSample) {
  const blob = await (await ask(`model/${file}`)).blob();
  button.addEventListener("click", () => onSample(blob, name));
  const picture = await createImageBitmap(blob).catch(() => null);
  if (!picture) return;
  const scale = canvas.width / Math.max(picture.width, picture.height);
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = Math.max(picture.width, picture.height) > PIXEL_ART;
  const [width, height] = [picture.width * scale, picture.height * scale];
  context.drawImage(picture, (canvas.width - width) / 2, (canvas.height - height) / 2, width, height);
}

function proof({ verified }) {
  const rows = verified.stages.map(({ name, against, unit, difference, tolerance }) =>
    [name, against, `${scientific(difference)} ${unit}`, scientific(tolerance), difference <= tolerance ? "✓ passed" : "✗ failed"]);
  return [
    make("p", { class: "small quiet" }, `The export compared its graph with the source on ${fixed(verified.images)} images, in batches of ${verified.batch_sizes.join(", ")}. The best class was the same for ${percent(verified.top1_agreement)}.`),
    scrolled("Proof", table("The stages of the proof", ["stage", "compared with", "largest difference", "tolerance", "result"], rows)),
    make("p", { class: "small quiet" }, Object.entries(verified.versions).map(([name, version]) => `${name} ${version}`).join(" · ")),
  ];
}

function precision({ precision: name, ledger }) {
  const speed = ledger.buckets.map(({ batch, milliseconds, fp32_milliseconds: full }) =>
    [fixed(batch), `${fixed(milliseconds, 2)} ms`, `${fixed(full, 2)} ms`, `${fixed(full / milliseconds, 2)} ×`]);
  return [
    facts([
      ["Precision", ledger.method === name ? name : `${name} (${ledger.method})`],
      ["Size of the graph", `${bytes(ledger.bytes)}, in float32 ${bytes(ledger.fp32_bytes)}`],
      ["Same best class as in float32", `${percent(ledger.top1_agreement)} of ${fixed(ledger.images)} images`],
      ["Largest change of a logit", `${scientific(ledger.max_logit_difference)} of a range of ${scientific(ledger.logit_range)}`],
      ["… by other images in the batch", scientific(ledger.max_batch_difference)],
      ["Parts in float32", ledger.kept_float32.join(", ") || (name === "fp32" ? "all" : "none")],
    ]),
    scrolled("Time of a batch", table("Time of a batch at the export", ["batch", name, "fp32", "speed"], speed)),
  ];
}

function devices({ engines }) {
  const rows = engines.map((engine, number) => {
    const times = engine.buckets.map(({ batch, milliseconds }) => `${batch}: ${fixed(milliseconds, 2)} ms`);
    return [`engine ${number}`, engine.gpu?.name ?? engine.device, engine.provider, fixed(engine.threads), times.join(" · ")];
  });
  return [
    make("p", { class: "small quiet" }, "What the sessions of the engines report, and the time of each batch size during warm-up."),
    scrolled("Devices", table("Engines", ["engine", "device", "provider", "threads", "time by batch size"], rows)),
  ];
}

function labels(names) {
  const found = make("p", { class: "small quiet", role: "status" });
  const list = make("ol", { class: "labels" });
  const search = () => {
    const words = field.value.trim().toLowerCase();
    const matches = names.map((name, index) => [index, name]).filter(([index, name]) => name.toLowerCase().includes(words) || String(index) === words);
    list.replaceChildren(...matches.slice(0, MAX_LABELS).map(([index, name]) => make("li", {}, make("span", { class: "number quiet" }, String(index)), name)));
    const shown = matches.length > MAX_LABELS ? `, the first ${MAX_LABELS} of them below` : "";
    found.textContent = `${fixed(matches.length)} of ${fixed(names.length)} classes${shown}`;
  };
  const field = make("input", { type: "search", id: "label-search", placeholder: "name or index", oninput: search });
  search();
  return [make("div", { class: "row" }, make("label", { for: "label-search" }, "Search"), field), found, list];
}
