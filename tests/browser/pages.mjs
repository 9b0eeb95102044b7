// Open starters' pages in Chromium, and print as JSON what each says of its golden picture and of
// another one.
//
// usage: node pages.mjs CHROMIUM URL PICTURE NAME ...
//
// The pages are URL/NAME/. Beside PICTURE a screenshot NAME.png is written, of the golden picture.
// "other" lists what was asked of other machines.

import { dirname, join } from "node:path";
import { chromium } from "playwright-core";

const [executablePath, url, picture, ...names] = process.argv.slice(2);
const args = ["--disable-gpu", "--disable-dev-shm-usage"];
const browser = await chromium.launch({ executablePath, args });
try {
  const told = {};
  for (const name of names) told[name] = await visit(name);
  console.log(JSON.stringify(told));
} finally {
  await browser.close();
}

async function visit(name) {
  const page = await browser.newPage({ viewport: { width: 1000, height: 720 } });
  const other = [];
  page.on("request", (request) => {
    if (!request.url().startsWith(url) && !/^(blob|data):/.test(request.url())) {
      other.push(request.url());
    }
  });
  page.on("console", (message) => console.error(message.text()));
  page.on("pageerror", (error) => console.error(String(error)));

  const text = (selector) => page.locator(selector).textContent();
  const says = async () => {
    const settled = "body:not([data-state=busy])";
    await page.waitForSelector(settled, { state: "attached", timeout: 60_000 });
    return {
      state: await page.locator("body").getAttribute("data-state"),
      status: await text("#status"),
      verdict: await text("#verdict"),
      prediction: JSON.parse((await text("#json")) || "null"),
    };
  };
  await page.goto(`${url}/${name}/`);
  const golden = await says();
  await page.screenshot({ path: join(dirname(picture), `${name}.png`), fullPage: true });
  await page.setInputFiles("#file", picture);
  const own = await says();
  await page.close();
  return { golden, own, other };
}
