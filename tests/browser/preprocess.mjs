// Prepare pictures as a starter's page does.
//
// usage: node preprocess.mjs CONTRACT_JS CASES
//
// CASES is a JSON file: a list of {width, height, contract, pixels, input}, the last two being files,
// one to read (RGBA, 8 bit) and one to write (float32).

import { readFileSync, writeFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [source, cases] = process.argv.slice(2);
const { preprocess } = await import(pathToFileURL(source));
for (const { width, height, contract, pixels, input } of JSON.parse(readFileSync(cases, "utf8"))) {
  writeFileSync(input, preprocess({ width, height, data: readFileSync(pixels) }, contract));
}
