// The square that shows an image: the upload, or what the network saw of it, with evidence over it.

import { centered, paint } from "./evidence.js";

// The largest input of a network, in pixels, whose pixels are shown as squares.
const PIXEL_ART = 64;

export class Stage {
  /** `map` says how evidence lies on the network's input: its stride, and the size of the input. */
  constructor(element, image, evidence) {
    Object.assign(this, { element, image, evidence });
    this.clear();
    new ResizeObserver(() => this.draw()).observe(element);
  }

  /** Set the layout of evidence on the network's input, from the manifest. */
  use({ evidence, input_height: height, input_width: width }) {
    this.layout = { stride: evidence.stride, height, width };
  }

  /** Show nothing. */
  clear() {
    this.upload = this.input = this.region = this.map = null;
    this.options = { strength: 0.8, saw: false, centered: true, ...this.options };
    this.draw();
  }

  /** Show an image, an `ImageBitmap`, or null if the browser cannot show its format. */
  showUpload(bitmap) {
    this.upload = bitmap;
    this.input = this.region = this.map = null;
    this.draw();
  }

  /** Set what the network saw, an `ImageBitmap`, and its region in the image, as shares of the image's sides. */
  showInput(bitmap, region) {
    this.input = bitmap;
    this.region = region;
    this.draw();
  }

  /** Set the map of evidence. */
  showMap(map) {
    this.map = map;
    this.draw();
  }

  /** Change options: `strength` from 0 to 1, `saw` and `centered`. */
  set(options) {
    Object.assign(this.options, options);
    this.draw();
  }

  /** Draw both layers in the pixels of the screen. */
  draw() {
    const side = Math.round(this.element.clientWidth * devicePixelRatio);
    if (!side) return;
    for (const canvas of [this.image, this.evidence]) canvas.width = canvas.height = side; // also clears them
    const showsInput = this.input && (this.options.saw || !this.upload);
    const picture = showsInput ? this.input : this.upload;
    if (!picture) return;
    const box = fit(picture, side);
    const context = this.image.getContext("2d");
    context.imageSmoothingEnabled = Math.max(picture.width, picture.height) > PIXEL_ART;
    context.imageSmoothingQuality = "high";
    context.drawImage(picture, ...box);
    if (this.map && this.region && this.options.strength > 0) this.drawEvidence(showsInput ? box : within(box, this.region));
    this.image.classList.toggle("gray", Boolean(this.map && this.region && this.options.strength > 0));
  }

  /** Draw the evidence over the box that shows the network's input. Nothing is drawn beside it. */
  drawEvidence([left, top, width, height]) {
    const { stride, width: columns, height: rows } = this.layout;
    const map = this.options.centered ? centered(this.map) : this.map;
    // The last row and column of the map may extend over the edge of the input.
    const size = [(width * map[0].length * stride) / columns, (height * map.length * stride) / rows];
    const context = this.evidence.getContext("2d");
    context.beginPath();
    context.rect(left, top, width, height);
    context.clip();
    context.imageSmoothingQuality = "high";
    context.drawImage(paint(map, this.options.strength), left, top, ...size);
  }
}

/** Return the box, [left, top, width, height], of a picture that fits into a square and keeps its shape. */
function fit({ width, height }, side) {
  const scale = side / Math.max(width, height);
  return [(side - width * scale) / 2, (side - height * scale) / 2, width * scale, height * scale];
}

/** Return the box of a region, given as shares, of a box. */
function within([left, top, width, height], region) {
  return [left + region[0] * width, top + region[1] * height, region[2] * width, region[3] * height];
}
