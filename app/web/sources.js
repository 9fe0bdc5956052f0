// Where images come from: dropped, pasted or chosen files, the camera, and drawings. Sends nothing.

import { byId } from "./dom.js";
import { Drawing } from "./drawing.js";

// Milliseconds after a stroke in which another stroke can begin before the drawing is used.
const PAUSE = 250;

/**
 * Listen to all sources of images.
 *
 * `onImage(blob, name)` gets each image, `onProblem(sentence)` what went wrong, and `onEmpty()` is called when the
 * drawing is cleared. Returns functions to allow drawing, to choose its paper, and to close all sources.
 */
export function openSources({ onImage, onProblem, onEmpty }) {
  const stage = byId("stage");
  const file = byId("file");
  const take = (files) => {
    if (!files.length) return;
    close();
    onImage(files[0], files[0].name || "image");
    if (files.length > 1) onProblem(`The page classifies one image at a time: it uses ${files[0].name}. POST /classify/batch takes several.`);
  };

  byId("choose").addEventListener("click", () => file.click());
  file.addEventListener("change", () => {
    take([...file.files]);
    file.value = ""; // so that the same file can be chosen again
  });

  // A file that is dropped beside the stage would replace the page.
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    stage.classList.toggle("target", event.dataTransfer.types.includes("Files"));
  });
  document.addEventListener("dragleave", (event) => event.relatedTarget ?? stage.classList.remove("target"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    stage.classList.remove("target");
    take([...event.dataTransfer.files]);
  });

  document.addEventListener("paste", (event) => {
    const files = [...event.clipboardData.files];
    if (files.length) take(files);
    else if (!event.target.closest?.("input")) onProblem("The clipboard holds no image. Copy an image, not its address.");
  });

  const camera = openCamera(stage, { take: (blob) => onImage(blob, "camera.jpg"), onProblem, onOpen: close });
  const drawing = openDrawing(stage, { onImage, onEmpty, onOpen: close });

  function close() {
    camera.close();
    drawing.close();
    stage.dataset.mode = "image";
  }

  return { allowDrawing: drawing.allow, setPaper: drawing.setPaper, close };
}

function openCamera(stage, { take, onProblem, onOpen }) {
  const [video, tools, file] = [byId("video"), byId("camera-tools"), byId("file")];
  let stream = null;

  const close = () => {
    stream?.getTracks().forEach((track) => track.stop());
    stream = video.srcObject = null;
    tools.hidden = true;
  };

  byId("camera").addEventListener("click", async () => {
    if (!navigator.mediaDevices) {
      // Browsers give the camera to pages on https and on localhost only. Phones have one behind the file button.
      file.setAttribute("capture", "environment");
      file.click();
      file.removeAttribute("capture");
      return;
    }
    try {
      const opened = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
      onOpen();
      stream = video.srcObject = opened;
      await video.play();
      stage.dataset.mode = "camera";
      tools.hidden = false;
      byId("shoot").focus();
    } catch (error) {
      onProblem(error.name === "NotAllowedError" ? "The browser refuses the camera. Allow it in the settings of this page." : "There is no camera that the browser can open.");
    }
  });

  byId("shoot").addEventListener("click", async () => {
    const picture = new OffscreenCanvas(video.videoWidth, video.videoHeight);
    picture.getContext("2d").drawImage(video, 0, 0);
    const blob = await picture.convertToBlob({ type: "image/jpeg", quality: 0.95 });
    close();
    stage.dataset.mode = "image";
    take(blob);
    byId("camera").focus();
  });

  byId("camera-close").addEventListener("click", () => {
    close();
    stage.dataset.mode = "image";
    byId("camera").focus();
  });

  return { close };
}

function openDrawing(stage, { onImage, onEmpty, onOpen }) {
  const [tools, pen, canvas] = [byId("drawing-tools"), byId("pen"), byId("drawing")];
  let pause = null;
  const drawing = new Drawing(canvas, pen, {
    onStroke: () => {
      clearTimeout(pause);
      pause = setTimeout(async () => onImage(await drawing.blob(), "drawing.png"), PAUSE);
    },
    onClear: () => clearTimeout(pause),
  });

  pen.addEventListener("input", () => {
    pen.setAttribute("aria-valuetext", `${pen.value} pixels`);
    drawing.show();
  });
  byId("draw").addEventListener("click", () => {
    onOpen();
    drawing.clear();
    onEmpty();
    stage.dataset.mode = "drawing";
    tools.hidden = false;
    canvas.focus();
  });
  byId("clear").addEventListener("click", () => {
    drawing.clear();
    onEmpty();
    stage.dataset.mode = "drawing";
    canvas.focus();
  });

  return {
    allow: (isAllowed) => {
      byId("draw").hidden = byId("or-draw").hidden = !isAllowed;
    },
    setPaper: (isLight) => drawing.setPaper(isLight),
    close: () => {
      clearTimeout(pause);
      tools.hidden = true;
    },
  };
}
