// The page: reads contract.json and golden.json, runs model.onnx on the golden picture and on the
// user's own, and shows what it says. Nothing leaves the browser.

import * as ort from "onnxruntime-web";
import { agrees, preprocess, read } from "./contract.js";

const element = (id) => document.getElementById(id);
const canvas = element("picture");
const context = canvas.getContext("2d", { willReadFrequently: true });

const fetched = async (name) => {
  const response = await fetch(name);
  if (!response.ok) throw new Error(`${name}: ${response.status} ${response.statusText}`);
  return response;
};

let contract, golden, session;

async function start() {
  [contract, golden] = await Promise.all(
    ["contract.json", "golden.json"].map(async (name) => (await fetched(name)).json()),
  );
  const [height, width] = contract.size;
  const classes = contract.class_names.length;
  element("about").textContent =
    `${contract.task} · ${classes} ${classes === 1 ? "class" : "classes"} · ` +
    `${width} × ${height} pixels · ${golden.precision ?? ""}`;
  say("The model is being loaded …");
  session = await ort.InferenceSession.create("model.onnx");
  await showGolden();
  element("choose").disabled = element("golden").disabled = false;
}

async function showGolden() {
  const found = await show(await (await fetched(golden.picture)).blob());
  const mask = golden.mask && (await firstChannel(await (await fetched(golden.mask)).blob()));
  const same = agrees(found, golden.prediction, mask);
  const badge = element("verdict");
  badge.textContent = same
    ? "✓ the golden picture gives the golden answer"
    : "✗ the golden picture gives another answer than golden.json";
  badge.className = same ? "same" : "other";
}

// Run the network on a picture, show and return what it says.
async function show(file) {
  const picture = await pixels(file);
  const [height, width] = contract.size;
  const shape = contract.layout === "NHWC" ? [1, height, width, 3] : [1, 3, height, width];
  const started = performance.now();
  const input = new ort.Tensor("float32", preprocess(picture, contract), shape);
  const prepared = performance.now();
  const outputs = await session.run({ [session.inputNames[0]]: input });
  const ran = performance.now();
  const found = read(outputs[session.outputNames[0]], contract, picture);
  draw(found);
  const { mask, ...told } = found;
  element("json").textContent = JSON.stringify(told, null, 2);
  say(`prepared in ${(prepared - started).toFixed()} ms, run in ${(ran - prepared).toFixed()} ms`);
  return found;
}

// Draw a file on the canvas, upright and over white, and return its pixels as they are stored:
// colours are not converted, for the network has not seen them so.
async function pixels(file) {
  const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
  [canvas.width, canvas.height] = [bitmap.width, bitmap.height];
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

async function firstChannel(file) {
  const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
  const beside = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d");
  beside.drawImage(bitmap, 0, 0);
  return beside.getImageData(0, 0, bitmap.width, bitmap.height).data.filter((_, i) => i % 4 === 0);
}

function draw(found) {
  if (found.boxes) drawBoxes(found.boxes);
  if (found.mask) drawMask(found.mask);
  const rows = found.labels
    ? found.labels.map(({ name, probability }) => row(name, probability))
    : (found.boxes ?? found.classes).map(({ name, class_id, score, share }) =>
        row(name, score ?? share, colour(indexOf(class_id))),
      );
  element("answers").replaceChildren(...rows);
  element("nothing").hidden = rows.length > 0;
}

// Return a line of the answers: a name, a share and a bar as long as it.
function row(name, share, fill = "var(--accent)") {
  const [item, words, bar] = ["li", "div", "div"].map((tag) => document.createElement(tag));
  for (const text of [name, share < 0.001 ? "< 0.1 %" : `${(100 * share).toFixed(1)} %`]) {
    words.appendChild(document.createElement("span")).textContent = text;
  }
  bar.className = "bar";
  bar.style.cssText = `width: ${100 * share}%; background: ${fill}`;
  item.append(words, bar);
  return item;
}

function drawBoxes(boxes) {
  const size = Math.max(11, Math.min(canvas.width, canvas.height) / 24);
  context.lineWidth = size / 6;
  context.font = `600 ${size}px system-ui, sans-serif`;
  context.textBaseline = "top";
  for (const { name, class_id, score, box } of [...boxes].reverse()) {
    const [left, top, right, bottom] = box;
    const words = `${name} ${(100 * score).toFixed()} %`;
    const width = context.measureText(words).width + size / 2;
    const x = Math.max(0, Math.min(left, canvas.width - width));
    const y = Math.max(0, top - 1.3 * size);
    context.strokeStyle = context.fillStyle = colour(indexOf(class_id));
    context.strokeRect(left, top, right - left, bottom - top);
    context.fillRect(x, y, width, 1.3 * size);
    context.fillStyle = "white";
    context.fillText(words, x + size / 4, y + 0.15 * size);
  }
}

function drawMask(mask) {
  const image = context.getImageData(0, 0, canvas.width, canvas.height);
  const colours = contract.class_names.map((_, index) => rgb(index));
  mask.forEach((index, p) => {
    for (let c = 0; c < 3; c++) {
      image.data[4 * p + c] = (image.data[4 * p + c] + colours[index][c]) / 2;
    }
  });
  context.putImageData(image, 0, 0);
}

const indexOf = (id) => (contract.class_ids.length ? contract.class_ids.indexOf(id) : id);

// Return the colour of a class, far from that of its neighbours: each hue is a golden angle on.
function rgb(index) {
  const hue = (210 + 137.508 * index) % 360; // of saturation 0.85 and lightness 0.45
  return [0, 8, 4].map((n) => {
    const k = (n + hue / 30) % 12;
    return Math.round(255 * (0.45 - 0.38 * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
  });
}
const colour = (index) => `rgb(${rgb(index).join(" ")})`;

function say(words) {
  element("status").textContent = words;
}

// Show what a promise comes to, or why it fails; the tests wait for `data-state`.
async function attempt(work) {
  document.body.dataset.state = "busy";
  try {
    await work();
    document.body.dataset.state = "done";
  } catch (error) {
    say(`That went wrong: ${error.message}`);
    document.body.dataset.state = "failed";
  }
}

element("file").addEventListener("change", ({ target }) => {
  if (target.files.length) attempt(() => show(target.files[0]));
});
element("choose").addEventListener("click", () => element("file").click());
element("golden").addEventListener("click", () => attempt(showGolden));
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  if (session && event.dataTransfer.files.length) {
    attempt(() => show(event.dataTransfer.files[0]));
  }
});
attempt(start);
