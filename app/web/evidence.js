// The evidence for a class, painted with one color for it and one against it. Knows no element of the page.

// Vermilion and blue of Okabe and Ito's palette, as in the service's own pictures of evidence.
const FOR = [213, 94, 0];
const AGAINST = [0, 114, 178];
// Pixels for each position of the map, before the browser scales the picture.
const DETAIL = 16;

/** Return a map minus its mean, so that positions can be compared. */
export function centered(map) {
  const mean = map.flat().reduce((sum, value) => sum + value, 0) / map.flat().length;
  return map.map((row) => row.map((value) => value - mean));
}

/** Return how much the positions differ: 0 if all contribute the same, about 1 and more if few contribute. */
export function contrast(map) {
  const values = map.flat();
  return (Math.max(...values) - Math.min(...values)) / (Math.max(...values.map(Math.abs)) || 1);
}

/** Return a canvas with the map, one color for each sign. The strongest position has the opacity `strength`. */
export function paint(map, strength) {
  const [height, width] = [map.length * DETAIL, map[0].length * DETAIL];
  const strongest = Math.max(...map.flat().map(Math.abs)) || 1;
  const pixels = new ImageData(width, height);
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      const value = sample(map, (x + 0.5) / DETAIL - 0.5, (y + 0.5) / DETAIL - 0.5);
      const color = value > 0 ? FOR : AGAINST;
      pixels.data.set([...color, (255 * strength * Math.abs(value)) / strongest], 4 * (y * width + x));
    }
  }
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}

/** Return the value of the map between positions, interpolated in both directions. */
function sample(map, x, y) {
  const [left, top] = [Math.floor(x), Math.floor(y)];
  const at = (row, column) => map[clamp(row, map.length)][clamp(column, map[0].length)];
  const [across, down] = [x - left, y - top];
  const upper = at(top, left) * (1 - across) + at(top, left + 1) * across;
  const lower = at(top + 1, left) * (1 - across) + at(top + 1, left + 1) * across;
  return upper * (1 - down) + lower * down;
}

const clamp = (index, length) => Math.min(Math.max(index, 0), length - 1);
