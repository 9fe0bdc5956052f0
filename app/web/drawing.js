// A canvas to draw on with a pointer or with the keyboard.

const [BLACK, WHITE] = ["#000000", "#ffffff"];
// Pixels. The service resizes the drawing to the input of the network.
const SIDE = 256;
// Pixels that an arrow key moves the pen.
const STEP = 8;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class Drawing {
  /** `onStroke` is called after each stroke, and `onClear` when the drawing is empty again. */
  constructor(canvas, pen, { onStroke, onClear }) {
    Object.assign(this, { canvas, pen, onStroke, onClear });
    this.paper = new OffscreenCanvas(SIDE, SIDE); // the drawing without the mark of the pen
    this.isLight = true;
    canvas.width = canvas.height = SIDE;
    this.place = [SIDE / 2, SIDE / 4];
    this.isDown = false;
    canvas.addEventListener("pointerdown", (event) => this.start(event));
    canvas.addEventListener("pointermove", (event) => this.isDown && event.buttons && this.lineTo(this.placeOf(event)));
    canvas.addEventListener("pointerup", () => this.lift());
    canvas.addEventListener("pointercancel", () => this.lift());
    canvas.addEventListener("keydown", (event) => this.press(event));
    canvas.addEventListener("focus", () => this.show());
    canvas.addEventListener("blur", () => this.show());
    this.clear();
  }

  /** Draw with black on white, or with white on black, as the images that the network was trained on. */
  setPaper(isLight) {
    this.isLight = isLight;
  }

  /** Remove all strokes. */
  clear() {
    const context = this.paper.getContext("2d");
    context.fillStyle = this.isLight ? WHITE : BLACK;
    context.fillRect(0, 0, SIDE, SIDE);
    this.isDown = false;
    this.show();
    this.onClear();
  }

  /** Return the drawing as a PNG. */
  blob() {
    return this.paper.convertToBlob({ type: "image/png" });
  }

  start(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.isDown = true;
    this.isPointer = true;
    this.place = this.placeOf(event);
    this.lineTo(this.place);
  }

  lift() {
    if (!this.isDown) return;
    this.isDown = false;
    this.show();
    this.onStroke();
  }

  press(event) {
    const direction = ARROWS[event.key];
    if (!direction && event.key !== " ") return;
    event.preventDefault();
    this.isPointer = false;
    if (event.key === " ") {
      if (this.isDown) return this.lift();
      this.isDown = true;
      return this.lineTo(this.place);
    }
    const next = this.place.map((value, axis) => Math.min(Math.max(value + direction[axis] * STEP, 0), SIDE));
    if (this.isDown) return this.lineTo(next);
    this.place = next;
    this.show();
  }

  lineTo(next) {
    const context = this.paper.getContext("2d");
    context.strokeStyle = this.isLight ? BLACK : WHITE;
    context.lineWidth = Number(this.pen.value);
    context.lineCap = context.lineJoin = "round";
    context.beginPath();
    context.moveTo(...this.place);
    context.lineTo(...next);
    context.stroke();
    this.place = next;
    this.show();
  }

  placeOf(event) {
    const box = this.canvas.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * SIDE, ((event.clientY - box.top) / box.height) * SIDE];
  }

  /** Show the drawing, and the place of the pen while the keyboard moves it. */
  show() {
    const context = this.canvas.getContext("2d");
    context.drawImage(this.paper, 0, 0);
    if (this.isPointer || document.activeElement !== this.canvas) return;
    context.strokeStyle = "#d55e00";
    context.lineWidth = 3;
    context.beginPath();
    context.arc(...this.place, Number(this.pen.value) / 2 + 2, 0, 2 * Math.PI);
    context.stroke();
  }
}
