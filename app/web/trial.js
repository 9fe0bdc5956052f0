// The view Try: one image from any source, its answer, and the evidence for a class over the image.

import { clearAnswer, showBars, showTimings } from "./answer.js";
import { byId, bytes, fixed, percent, say } from "./dom.js";
import { contrast } from "./evidence.js";
import { ask, Problem } from "./service.js";
import { openSnippets, showSnippets } from "./snippets.js";
import { openSources } from "./sources.js";
import { Stage } from "./stage.js";

// The most classes with evidence that the service returns.
const MAX_CLASSES = 100;
// The largest input, in pixels, for which drawing makes sense.
const MAX_DRAWN = 64;
// Below this contrast, the positions of a map look the same.
const FLAT = 0.25;
// Milliseconds until the header shows that the page waits.
const PATIENCE = 300;

/** Open the view, and return what the rest of the page needs of it. */
export function openTrial() {
  const trial = new Trial();
  return { use: (model) => trial.use(model), classify: (blob, name) => trial.show(blob, name) };
}

/** Return whether a picture is lighter than medium gray. */
function isLight(canvas) {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return data.reduce((sum, value, at) => (at % 4 === 3 ? sum : sum + value), 0) / ((data.length / 4) * 3) > 127;
}

class Trial {
  constructor() {
    this.stage = new Stage(byId("stage"), byId("image"), byId("evidence"));
    this.sources = openSources({
      onImage: (blob, name) => this.show(blob, name),
      onProblem: (sentence) => this.refuse(sentence),
      onEmpty: () => this.clear(),
    });
    openSnippets();
    byId("top-k").addEventListener("change", () => this.repeat());
    byId("strength").addEventListener("input", ({ target }) => {
      byId("strength-value").textContent = `${target.value} %`;
      this.stage.set({ strength: target.value / 100 });
    });
    byId("saw").addEventListener("change", ({ target }) => {
      this.stage.set({ saw: target.checked });
      byId("stage").classList.toggle("saw", target.checked);
    });
    byId("centered").addEventListener("change", ({ target }) => {
      this.stage.set({ centered: target.checked });
      this.explainEvidence();
    });
  }

  /** Use the model that `GET /model` describes. */
  use(model) {
    this.model = model;
    this.stage.use(model.manifest);
    const most = Math.min(model.labels.length, MAX_CLASSES);
    byId("top-k").max = most;
    byId("top-k").value = Math.min(model.limits.top_k, most);
    this.sources.allowDrawing(Math.max(model.manifest.input_height, model.manifest.input_width) <= MAX_DRAWN);
    this.invite();
    if (this.shown) this.repeat();
  }

  /** Offer the golden sample with the highest score. */
  async invite() {
    const sample = this.model.golden.reduce((best, each) => (each.score > best.score ? each : best));
    const blob = await (await ask(`model/${sample.file}`)).blob();
    const bitmap = await createImageBitmap(blob).catch(() => null);
    if (!bitmap) return;
    const button = byId("sample");
    const [canvas, words] = button.children;
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = bitmap.width > MAX_DRAWN;
    context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    this.sources.setPaper(isLight(canvas));
    words.textContent = `Try the sample “${sample.label}”`;
    button.onclick = () => this.show(blob, sample.file.split("/").at(-1));
    button.hidden = false;
  }

  /** Show an image, and classify it. */
  async show(blob, name) {
    const mode = byId("stage").dataset.mode;
    if (mode !== "drawing" || name !== "drawing.png") this.sources.close();
    const tooLarge = this.sizeProblem(blob, name);
    if (tooLarge) return this.refuse(tooLarge);
    const bitmap = await createImageBitmap(blob).catch(() => null);
    const { megapixels } = this.model.limits;
    if (bitmap && bitmap.width * bitmap.height > megapixels * 1e6) {
      return this.refuse(`${name} has ${fixed((bitmap.width * bitmap.height) / 1e6, 1)} megapixels, and the service takes ${megapixels}. Choose a smaller image.`);
    }
    this.shown = { blob, name };
    this.stage.showUpload(bitmap);
    byId("overlay-tools").hidden = true;
    const size = bitmap ? `${bitmap.width} × ${bitmap.height} pixels, ` : "";
    const { input_height: height, input_width: width } = this.model.manifest;
    byId("caption").textContent = `${name}: ${size}${bytes(blob.size)}. The network gets ${width} × ${height} pixels.`;
    byId("image").setAttribute("aria-label", `The image ${name}`);
    return this.repeat();
  }

  /** Classify the image again, with the number of classes that the page shows. */
  async repeat({ isRetry = false } = {}) {
    if (!this.shown) return;
    clearTimeout(this.retry);
    this.request?.abort();
    const request = (this.request = new AbortController());
    const working = setTimeout(() => { byId("working").hidden = false; }, PATIENCE);
    try {
      await this.ask(request.signal);
    } catch (error) {
      if (error.name === "AbortError") return;
      if (!(error instanceof Problem)) throw error;
      this.explain(error, isRetry);
    } finally {
      clearTimeout(working);
      if (this.request === request) byId("working").hidden = true;
    }
  }

  async ask(signal) {
    const { blob, name } = this.shown;
    const topK = this.topK();
    const post = (path) => ask(path, { method: "POST", body: blob, headers: { "Content-Type": "application/octet-stream" }, signal });
    const started = performance.now();
    const response = await post(`classify?top_k=${topK}&evidence=true`);
    const { predictions } = await response.json();
    const seconds = (performance.now() - started) / 1000;
    say(byId("notice"), null);
    showBars(predictions, (prediction) => this.select(prediction));
    showTimings(response.headers.get("Server-Timing") ?? "", seconds);
    showSnippets({ file: name, topK, model: this.model.name });
    const preview = await post("preprocess");
    const input = await createImageBitmap(await preview.blob());
    this.stage.showInput(input, preview.headers.get("X-Image-Region").split(",").map(Number));
    byId("overlay-tools").hidden = false;
  }

  /** Show the evidence for a class. */
  select({ label, evidence }) {
    this.stage.showMap(evidence);
    this.selected = { label, evidence };
    this.explainEvidence();
  }

  /** Say what the colors mean, and whether the positions differ at all. */
  explainEvidence() {
    const { label, evidence } = this.selected;
    const comparesPositions = byId("centered").checked;
    byId("legend-for").textContent = comparesPositions ? `more for ${label} than the mean position` : `for ${label}`;
    byId("legend-against").textContent = comparesPositions ? "less" : "against it";
    const difference = contrast(evidence);
    const flat = comparesPositions
      ? `The positions differ by ${percent(difference, 0)} of the strongest one: attention has spread the information over the image.`
      : "All positions contribute about the same: attention has spread the information over the image.";
    say(byId("evidence-note"), difference < FLAT ? flat : null);
  }

  topK() {
    const field = byId("top-k");
    const value = Math.round(Number(field.value)) || 1;
    field.value = Math.min(Math.max(value, 1), Number(field.max));
    return Number(field.value);
  }

  sizeProblem(blob, name) {
    const limit = this.model?.limits.body_bytes ?? Infinity;
    if (!this.model) return "The page does not know the model yet. Try again when the service answers.";
    return blob.size > limit ? `${name} has ${bytes(blob.size)}, and the service takes ${bytes(limit)}. Choose a smaller file.` : null;
  }

  /** Show why the service refused the image. If it says when to come back, send the image again once. */
  explain(problem, isRetry) {
    if (problem.status === 401) return; // the form for the key says it
    const wait = problem.retryAfter;
    if (wait === null || isRetry) {
      const advice = wait === null ? "" : " The page has tried twice. Choose the image again later.";
      this.refuse(problem.message + advice);
      return;
    }
    const until = Date.now() + wait * 1000;
    const count = () => {
      const left = Math.ceil((until - Date.now()) / 1000);
      if (left <= 0) return this.repeat({ isRetry: true });
      say(byId("notice"), `${problem.message} The page sends the image again in ${left} s.`);
      this.retry = setTimeout(count, 250);
    };
    count();
  }

  refuse(sentence) {
    say(byId("notice"), sentence);
  }

  clear() {
    clearTimeout(this.retry);
    this.request?.abort();
    this.shown = null;
    this.stage.clear();
    clearAnswer();
    say(byId("notice"), null);
    byId("overlay-tools").hidden = byId("snippets").hidden = true;
    byId("caption").textContent = "";
  }
}
