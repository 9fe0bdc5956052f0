// The start of the page: its header, its views and its API key. Each view has a module of its own.

import { byId, make, say } from "./dom.js";
import { askJson, events, hasKey, Problem, setKey } from "./service.js";
import { openCard } from "./card.js";
import { openLive } from "./live.js";
import { openTrial } from "./trial.js";

const VIEWS = ["try", "live", "model"];
// Milliseconds between two questions for the state of the service.
const STATE_INTERVAL = 5000;
const WORDS = {
  ready: "ready",
  recovering: "recovering: an engine restarts",
  draining: "draining: no new requests",
  broken: "broken: restart the process",
  offline: "offline: no answer",
};

const trial = openTrial();
const live = openLive();
const card = openCard((blob, name) => {
  location.hash = "#try";
  trial.classify(blob, name);
});

function showView() {
  const wanted = location.hash.slice(1);
  const name = VIEWS.includes(wanted) ? wanted : "try";
  for (const view of VIEWS) {
    byId(`view-${view}`).hidden = view !== name;
    const link = document.querySelector(`nav a[href="#${view}"]`);
    if (view === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  live.show(name === "live");
  card.show(name === "model");
}

async function loadModel() {
  try {
    const model = await askJson("model");
    say(byId("page-problem"), null);
    byId("key-form").hidden = true;
    describe(model);
    trial.use(model);
    card.use(model);
    document.documentElement.dataset.ready = "true"; // the page can be used from here on
    performance.mark("ready");
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    if (error.status !== 401) say(byId("page-problem"), `${error.message} Reload the page to try again.`);
  }
}

function describe(model) {
  const [engine] = model.engines;
  const device = engine.gpu?.name ?? `${engine.device} · ${engine.threads} thread${engine.threads === 1 ? "" : "s"}`;
  const precision = model.manifest.precision;
  const parts = [model.manifest.source.id, device, precision, `swin-serve ${model.version}`];
  byId("name").textContent = model.manifest.name;
  byId("about").replaceChildren(...parts.map((part) => make("span", {}, part)));
  document.title = `${model.manifest.name} · swin-serve`;
}

function showState(state) {
  byId("state").dataset.state = state;
  const words = WORDS[state] ?? state;
  if (byId("state-words").textContent !== words) byId("state-words").textContent = words;
}

async function watchState() {
  if (!document.hidden) {
    try {
      showState((await askJson("health/ready")).status);
    } catch (error) {
      if (error.document?.status in WORDS) showState(error.document.status);
    }
  }
  setTimeout(watchState, STATE_INTERVAL);
}

function listenForKeys() {
  events.addEventListener("key-needed", ({ detail: hadKey }) => {
    const form = byId("key-form");
    if (form.hidden) {
      form.hidden = false;
      byId("api-link").hidden = true;
      byId("key").focus();
    }
    byId("key-error").textContent = hadKey ? "The service does not know this key. Enter another one." : "";
  });
  byId("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const field = byId("key");
    if (setKey(field.value.trim())) field.value = "";
    else byId("key-error").textContent = "A key has at least 16 characters and no spaces.";
  });
  byId("forget-key").addEventListener("click", () => setKey(null));
  events.addEventListener("key-changed", () => {
    showKey();
    loadModel();
    live.restart();
  });
}

function showKey() {
  byId("forget-key").hidden = !hasKey();
  byId("api-link").hidden = hasKey(); // a link carries no key
}

events.addEventListener("offline", () => showState("offline"));
window.addEventListener("hashchange", showView);
listenForKeys();
showKey();
showView();
loadModel();
watchState();
