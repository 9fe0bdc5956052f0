// The request that the page has sent, as code to copy in several languages. The code never holds the API key.

import { byId, make } from "./dom.js";
import { hasKey } from "./service.js";

const LANGUAGES = ["curl", "Python", "JavaScript", "tritonclient"];
let request = null;
let language = LANGUAGES[0];

/** Show the code of a request: `file` is the name of the image, `model` the model's name in paths. */
export function showSnippets({ file, topK, model }) {
  request = { file, topK, model };
  byId("snippets").hidden = false;
  show();
}

/** Build the tabs and the copy button. */
export function openSnippets() {
  const tabs = LANGUAGES.map((name) =>
    make("button", { type: "button", role: "tab", id: `language-${name}`, "aria-controls": "snippet", onclick: () => choose(name) }, name));
  byId("languages").replaceChildren(...tabs);
  byId("languages").addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const place = (LANGUAGES.indexOf(language) + step + LANGUAGES.length) % LANGUAGES.length;
    choose(LANGUAGES[place]);
    tabs[place].focus();
  });
  byId("copy").addEventListener("click", copy);
  choose(language);
}

function choose(name) {
  language = name;
  for (const tab of byId("languages").children) {
    const isChosen = tab.textContent === name;
    tab.setAttribute("aria-selected", String(isChosen));
    tab.tabIndex = isChosen ? 0 : -1;
  }
  show();
}

async function copy() {
  const text = byId("snippet").textContent;
  let words = "Copied";
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Without https, browsers refuse the clipboard: select the text, so that the keyboard copies it.
    getSelection().selectAllChildren(byId("snippet"));
    words = "Selected: copy it with the keyboard";
  }
  byId("copied").textContent = words;
  byId("copy").textContent = words === "Copied" ? words : "Selected";
  setTimeout(() => { byId("copy").textContent = "Copy"; }, 2000);
}

function show() {
  if (request) byId("snippet").firstElementChild.textContent = code(language, request);
}

/** Return the code of a request in a language. */
function code(name, { file, topK, model }) {
  const base = new URL(".", location.href).href.replace(/\/$/, "");
  const url = `${base}/classify?top_k=${topK}&evidence=true`;
  const quoted = JSON.stringify(file);
  const key = hasKey();
  switch (name) {
    case "curl":
      return [
        "curl --data-binary @" + shell(file),
        ...(key ? ['  --header "Authorization: Bearer $SWIN_API_KEY"'] : []),
        `  '${url}'`,
      ].join(" \\\n");
    case "Python":
      return [
        "import json",
        ...(key ? ["import os"] : []),
        "from pathlib import Path",
        "from urllib.request import Request, urlopen",
        "",
        `image = Path(${quoted}).read_bytes()`,
        `request = Request("${url}", data=image)`,
        'request.add_header("Content-Type", "application/octet-stream")',
        ...(key ? ['request.add_header("Authorization", f"Bearer {os.environ[\'SWIN_API_KEY\']}")'] : []),
        "for row in json.load(urlopen(request))[\"predictions\"]:",
        '    print(row["label"], round(row["score"], 4))',
      ].join("\n");
    case "JavaScript":
      return [
        'import { readFile } from "node:fs/promises";',
        "",
        `const response = await fetch("${url}", {`,
        '  method: "POST",',
        `  body: await readFile(${quoted}),`,
        ...(key ? ["  headers: { Authorization: `Bearer ${process.env.SWIN_API_KEY}` },"] : []),
        "});",
        "const { predictions } = await response.json();",
        "for (const { label, score } of predictions) console.log(label, score.toFixed(4));",
      ].join("\n");
    default: {
      const { host, protocol } = new URL(base);
      const path = new URL(base).pathname.replace(/\/$/, "");
      return [
        ...(key ? ["import os", ""] : []),
        "import numpy as np",
        "import tritonclient.http as triton",
        "",
        `client = triton.InferenceServerClient("${host}${path}"${protocol === "https:" ? ", ssl=True" : ""})`,
        `image = np.array([[open(${quoted}, "rb").read()]], dtype=object)`,
        'given = triton.InferInput("image", [1, 1], "BYTES")',
        "given.set_data_from_numpy(image)",
        `wanted = triton.InferRequestedOutput("logits", class_count=${topK})`,
        `answer = client.infer("${model}", [given], outputs=[wanted]${key ? ',\n    headers={"Authorization": f"Bearer {os.environ[\'SWIN_API_KEY\']}"}' : ""})`,
        'print(answer.as_numpy("logits"))  # logit:index:label',
      ].join("\n");
    }
  }
}

const shell = (text) => (/^[\w.-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
