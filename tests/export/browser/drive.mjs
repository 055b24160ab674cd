// Runs the steps of a test in headless Chromium, and writes the answers.
//
//   node drive.mjs NODE_MODULES CHROMIUM PLAN ANSWERS
//
// PLAN is JSON: {width, height, dark, steps}. A step is [what, ...arguments]. If a step reads
// something, its first argument is the name of the answer in ANSWERS, which is JSON too. ANSWERS
// also has "problems", errors that the page did not catch, and "requests", all requested addresses.

import {mkdtempSync, readFileSync, rmSync, writeFileSync} from 'node:fs';
import {createRequire} from 'node:module';
import {tmpdir} from 'node:os';
import {join, resolve} from 'node:path';

const [nodeModules, executablePath, planFile, answersFile] = process.argv.slice(2);
const require = createRequire(join(resolve(nodeModules), 'drive.js'));
const {chromium} = require('playwright-core');
const plan = JSON.parse(readFileSync(planFile, 'utf8'));
const answers = {problems: [], requests: []};

const profile = mkdtempSync(join(tmpdir(), 'chromium-'));
const context = await chromium.launchPersistentContext(profile, {
  executablePath,
  headless: true,
  args: [
    '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-sync',
    '--disable-background-networking', '--disable-component-update',
  ],
  viewport: {width: plan.width ?? 1280, height: plan.height ?? 900},
  colorScheme: plan.dark ? 'dark' : 'light',
});
const page = context.pages()[0];
page.setDefaultTimeout(60000);
page.on('pageerror', (error) => answers.problems.push(String(error)));
page.on('console', (message) => {
  if (message.type() === 'error') {
    answers.problems.push(message.text());
  }
});

page.on('request', (request) => answers.requests.push(request.url()));

const steps = {
  goto: (url) => page.goto(url),
  click: (selector) => page.click(selector),
  fill: (selector, text) => page.fill(selector, text),
  select: (selector, label) => page.selectOption(selector, label),
  hover: (selector) => page.hover(selector),
  press: (key) => page.keyboard.press(key),
  // Waits until the decoder has answered. By then, earlier requests have begun.
  settle: () => page.waitForSelector('main[aria-busy=false]'),
  wait: (selector) => page.waitForSelector(selector),
  painted: () => page.waitForFunction(() => [...document.querySelectorAll('.code canvas')].every(
      (canvas) => canvas.getContext('2d').getImageData(0, 0, 1, 1).data[3] === 255)),
  screenshot: (path) => page.screenshot({path}),
};

const readings = {
  text: (selector) => page.textContent(selector),
  value: (selector) => page.inputValue(selector),
  shown: (selector) => page.isVisible(selector),
  count: (selector) => page.locator(selector).count(),
  attribute: (selector, name) => page.getAttribute(selector, name),
  // RGB of a canvas, in raster order.
  pixels: (selector) => page.$eval(selector, (canvas) => {
    const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    return [...data].filter((_, i) => i % 4 < 3);
  }),
  codes: () => page.$$eval('.cell', (cells) => cells.map((cell) => Number(cell.dataset.code))),
  focused: () => page.evaluate(() => document.activeElement.getAttribute('aria-label')),
  overflow: () => page.evaluate(
      () => document.documentElement.scrollWidth - document.documentElement.clientWidth),
  // The float32 images that the page's own decoder makes of token grids.
  decode: (grids, weights, backend) => page.evaluate(async ([grids, weights, backend]) => {
    const {Decoder} = await import('./decoder.js');
    const about = await (await fetch('examples.json')).json();
    const decoder = await Decoder.load(about, weights, backend);
    return {backend: decoder.backend, values: [...await decoder.decode(grids)]};
  }, [grids, weights, backend]),
};

try {
  for (const [what, ...details] of plan.steps) {
    if (readings[what]) {
      const [name, ...rest] = details;
      answers[name] = await readings[what](...rest);
    } else {
      await steps[what](...details);
    }
  }
} catch (error) {
  console.error(answers.problems, await page.textContent('#error-text'));
  throw error;
} finally {
  await context.close();
  rmSync(profile, {recursive: true, force: true});
}
writeFileSync(answersFile, JSON.stringify(answers));
