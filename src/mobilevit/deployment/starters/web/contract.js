// What contract.json asks for: from a picture to the network's input, and from its output to
// answers. Plain functions of numbers: they know no page, and Node runs them too.

const TOP = 5; // labels that are told of a picture
const SURE = 0.3; // score from which on a box is told
const OVERLAP = 0.5; // intersection over union with a better box of its class that drops a box
const CANDIDATES = 1000; // pairs of anchor and class that are chosen among
const BOXES = 200; // of a picture, at most

const KERNELS = {
  bilinear: { support: 1, weigh: (x) => Math.max(0, 1 - Math.abs(x)) },
  bicubic: {
    support: 2,
    weigh(x) {
      x = Math.abs(x);
      if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
      return x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
    },
  },
};

// Return for each of `count` pixels, which the part from `start` to `end` of a line of `length`
// pixels becomes, the first pixel it is made of and the weights of that and the next ones.
// The kernel is widened where the line shrinks (antialiasing), as Pillow does it.
function taps(length, start, end, count, kernel) {
  start = Math.fround(start);
  const scale = Math.fround(Math.fround(end) - start) / count;
  const stretch = Math.max(scale, 1);
  const support = kernel.support * stretch;
  return Array.from({ length: count }, (_, i) => {
    const centre = start + (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const last = Math.min(length, Math.trunc(centre + support + 0.5));
    const weights = Array.from({ length: last - first }, (_, j) =>
      kernel.weigh((first + j - centre + 0.5) / stretch),
    );
    const sum = weights.reduce((a, b) => a + b, 0);
    return { first, weights: weights.map((weight) => weight / sum) };
  });
}

// Pillow's weights for 8 bit: multiples of 1 / 2^22.
function rounded({ first, weights }) {
  const round = (w) => (Math.sign(w) * Math.round(Math.abs(w) * 2 ** 22)) / 2 ** 22;
  return { first, weights: weights.map(round) };
}

const toByte = (value) => Math.min(255, Math.max(0, Math.floor(value + 0.5)));

// Resize the middle axis of (outer, length, inner) to as many as there are taps.
function pass(data, outer, length, inner, taps, finish = (value) => value) {
  const made = new Float32Array(outer * taps.length * inner);
  let at = 0;
  for (let o = 0; o < outer; o++) {
    for (const { first, weights } of taps) {
      const start = (o * length + first) * inner;
      for (let i = 0; i < inner; i++) {
        let sum = 0;
        for (let j = 0; j < weights.length; j++) sum += weights[j] * data[start + j * inner + i];
        made[at++] = finish(sum);
      }
    }
  }
  return made;
}

// Return the network's input, float32 in [0, 1], of an upright picture (RGBA, 8 bit).
export function preprocess({ data, width, height }, contract) {
  const [rows, columns] = contract.size;
  const [left, top, right, bottom] = crop(width, height, contract);
  const kernel = KERNELS[contract.interpolation];
  const across = taps(width, left, right, columns, kernel).map(rounded);
  const down = taps(height, top, bottom, rows, kernel).map(rounded);
  const narrow = pass(data, height, width, 4, across, toByte);
  const pixels = pass(narrow, 1, height, columns * 4, down, toByte); // (rows, columns, 4)

  const input = new Float32Array(3 * rows * columns);
  const last = contract.layout === "NHWC"; // the channels
  for (let p = 0; p < rows * columns; p++) {
    for (let c = 0; c < 3; c++) {
      input[last ? p * 3 + c : c * rows * columns + p] = pixels[p * 4 + c] / 255;
    }
  }
  return input;
}

// Return which part of a picture the network sees: left, top, right and bottom.
function crop(width, height, { size: [rows, columns], resize }) {
  if (resize === null) return [0, 0, width, height];
  const scale = Math.max(resize / Math.min(width, height), columns / width, rows / height);
  const left = Math.max((width - columns / scale) / 2, 0);
  const top = Math.max((height - rows / scale) / 2, 0);
  const right = Math.min(left + columns / scale, width);
  return [left, top, right, Math.min(top + rows / scale, height)];
}

// Return what an output means, as `mobilevit predict --json` says it. Of masks `mask` is added: the
// index of every pixel's class.
export function read({ data, dims }, contract, { width, height }) {
  if (contract.output === "logits") return { labels: readLogits(data, contract) };
  if (contract.output === "detections" || contract.output === "candidates") {
    const rows = Array.from({ length: dims[1] }, (_, i) =>
      data.subarray(i * dims[2], (i + 1) * dims[2]),
    );
    const detections = contract.output === "candidates" ? choose(rows) : rows;
    return { width, height, boxes: readBoxes(detections, contract, width, height) };
  }
  const mask = likeliest(data, dims, width, height);
  return { width, height, classes: countPixels(mask, contract), mask };
}

function readLogits(logits, contract) {
  const highest = logits.reduce((a, b) => Math.max(a, b));
  const exponents = Array.from(logits, (logit) => Math.exp(logit - highest));
  const sum = exponents.reduce((a, b) => a + b);
  return exponents
    .map((exponent, i) => ({ name: contract.class_names[i], probability: exponent / sum }))
    .sort((a, b) => b.probability - a.probability)
    .slice(0, TOP);
}

// Return detections, rows of 6, of candidates, rows of 4 + K: class-wise non-maximum suppression.
function choose(candidates) {
  const pairs = [];
  for (const row of candidates) {
    for (let k = 4; k < row.length; k++) {
      if (row[k] >= SURE) pairs.push([...row.subarray(0, 4), row[k], k - 4]);
    }
  }
  const kept = [];
  for (const pair of pairs.sort((a, b) => b[4] - a[4]).slice(0, CANDIDATES)) {
    if (kept.every((box) => box[5] !== pair[5] || overlap(box, pair) <= OVERLAP)) kept.push(pair);
  }
  return kept.slice(0, BOXES);
}

function overlap(a, b) {
  const width = Math.min(a[2], b[2]) - Math.max(a[0], b[0]);
  const height = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
  const both = Math.max(width, 0) * Math.max(height, 0);
  const area = (box) => (box[2] - box[0]) * (box[3] - box[1]);
  return both / Math.max(area(a) + area(b) - both, 1e-12);
}

function readBoxes(detections, contract, width, height) {
  return detections
    .filter((row) => row[4] >= SURE)
    .map(([left, top, right, bottom, score, index]) => ({
      name: contract.class_names[index],
      class_id: contract.class_ids[index] ?? index,
      score,
      box: [left * width, top * height, right * width, bottom * height],
    }));
}

// Return the index of the most probable class of every pixel, of logits (1, K, h, w).
function likeliest(logits, [, classes, h, w], width, height) {
  const across = taps(w, 0, w, width, KERNELS.bilinear);
  const down = taps(h, 0, h, height, KERNELS.bilinear);
  const mask = new Uint8Array(width * height);
  for (let y = 0; y < height; y++) {
    const row = pass(pass(logits, classes, h, w, [down[y]]), classes, w, 1, across);
    for (let x = 0; x < width; x++) {
      let best = 0;
      for (let k = 1; k < classes; k++) if (row[k * width + x] > row[best * width + x]) best = k;
      mask[y * width + x] = best;
    }
  }
  return mask;
}

function countPixels(mask, contract) {
  const pixels = contract.class_names.map(() => 0);
  for (const index of mask) pixels[index]++;
  return pixels
    .map((count, index) => ({
      name: contract.class_names[index],
      class_id: contract.class_ids[index] ?? index,
      pixels: count,
      share: count / mask.length,
    }))
    .filter((found) => found.pixels > 0)
    .sort((a, b) => b.pixels - a.pixels);
}

// Tell whether an answer is the expected one, but for what decoding and arithmetic round.
// Masks are compared pixel by pixel.
export function agrees(found, expected, expectedMask) {
  if (expected.labels) {
    const alike = (a, b) => a.name === b.name && Math.abs(a.probability - b.probability) <= 0.02;
    // What the other does not name is at the most as likely as the least of what it names.
    const least = (labels) => Math.min(...labels.map(({ probability }) => probability));
    const within = (some, others) =>
      some.every((a) => a.probability <= least(others) + 0.02 || others.some((b) => alike(a, b)));
    const same = found.labels[0].name === expected.labels[0].name;
    return same && within(found.labels, expected.labels) && within(expected.labels, found.labels);
  }
  if (expected.boxes) {
    const sides = [expected.width, expected.height, expected.width, expected.height];
    const alike = (a, b) =>
      a.name === b.name &&
      Math.abs(a.score - b.score) <= 0.02 &&
      a.box.every((edge, i) => Math.abs(edge - b.box[i]) <= 0.02 * sides[i]);
    const within = (some, others) =>
      some.every((a) => a.score < SURE + 0.02 || others.some((b) => alike(a, b)));
    return within(found.boxes, expected.boxes) && within(expected.boxes, found.boxes);
  }
  let same = 0;
  found.mask.forEach((index, p) => (same += index === expectedMask[p]));
  return found.mask.length === expectedMask.length && same >= 0.99 * expectedMask.length;
}
