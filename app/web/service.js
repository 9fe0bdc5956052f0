// Requests to the service, with the API key of this tab. Turns every failure into a `Problem` with a sentence.

const KEY = "swin-serve-api-key";
const VALID_KEY = /^[!-~]{16,}$/;

/** A request that failed. `code` is the code of the problem document, or `offline`. */
export class Problem extends Error {
  constructor(sentence, { code, status = 0, retryAfter = null, document = null }) {
    super(sentence);
    this.code = code;
    this.status = status;
    this.retryAfter = retryAfter; // seconds, if a retry makes sense
    this.document = document; // the JSON of the response
  }
}

/** Dispatches `key-needed`, `key-changed`, `offline` and `online`. */
export const events = new EventTarget();

/** Return whether this tab has an API key. */
export const hasKey = () => sessionStorage.getItem(KEY) !== null;

/** Keep an API key for this tab, or forget it if it is null. Return false if it cannot be a key. */
export function setKey(key) {
  if (key !== null && !VALID_KEY.test(key)) return false;
  if (key === null) sessionStorage.removeItem(KEY);
  else sessionStorage.setItem(KEY, key);
  tell("key-changed");
  return true;
}

/**
 * Send a request to a path relative to the page, and return the response.
 * Throws a `Problem` if the service refuses it or does not answer.
 */
export async function ask(path, options = {}) {
  const key = sessionStorage.getItem(KEY);
  const headers = { ...options.headers, ...(key && { Authorization: `Bearer ${key}` }) };
  let response;
  try {
    response = await fetch(path, { cache: "no-store", credentials: "omit", ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    tell("offline");
    throw new Problem("The service does not answer. Check that it runs and that this machine reaches it.", { code: "offline" });
  }
  tell("online");
  if (response.ok) return response;
  const problem = await problemOf(response);
  if (problem.status === 401) tell("key-needed", key !== null);
  throw problem;
}

/** Return the JSON of a path. */
export const askJson = async (path) => (await ask(path)).json();

async function problemOf(response) {
  const document = await response.json().catch(() => ({}));
  const wait = Number(response.headers.get("Retry-After"));
  return new Problem(document.detail ?? `The service answered with status ${response.status}.`, {
    code: document.code ?? "unknown",
    status: response.status,
    retryAfter: Number.isFinite(wait) && wait > 0 ? wait : null,
    document,
  });
}

function tell(name, detail) {
  events.dispatchEvent(new CustomEvent(name, { detail }));
}
