// usage: node browse.mjs '{"root": …, "chromium": …, "modules": …, "folder": …, "cookie": …, "scheme": …, "width": …,
//                          "steps": [["go", path], ["see", text], …]}'
//
// Uses the console as a person does, step by step: go to a path, fill a field by its label, choose an option, open a
// summary or all of them, press a button by its name, press keys, wait until a text is seen, take a picture and hold the
// page against the rules of axe. Prints one JSON object: done (steps), problems, violations, values, and the names of the
// buttons that were there when one was pressed, and of those that were pressed. `modules` holds playwright-core and
// axe-core.
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';

const task = JSON.parse(process.argv[2]);
const require = createRequire(`${task.modules}/`);
const { chromium } = require('playwright-core');
const axe = await readFile(require.resolve('axe-core/axe.min.js'), 'utf-8');
// For a machine that does much else.
const LIMIT_MS = 120_000;

const browser = await chromium.launch({
  executablePath: task.chromium,
  args: ['--no-sandbox', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
});
const context = await browser.newContext({
  viewport: { width: task.width, height: 900 },
  colorScheme: task.scheme,
  timezoneId: 'Asia/Kolkata',
  locale: 'en-GB',
  // axe is put into the page, which the console itself lets nobody do.
  bypassCSP: task.bypassCSP ?? true,
  javaScriptEnabled: task.scripts ?? true,
});
if (task.cookie) await context.addCookies([{ name: 'console', value: task.cookie, url: task.root }]);
context.setDefaultTimeout(LIMIT_MS);
if (task.scriptsLateMs) {
  await context.route('**/*.js', async route => {
    await new Promise(over => setTimeout(over, task.scriptsLateMs));
    await route.continue();
  });
}
const page = await context.newPage();

const problems = [];
const violations = [];
const values = {};
const buttons = new Set();
const pressed = new Set();
page.on('console', message => { if (message.type() === 'error') problems.push(`console: ${message.text().slice(0, 300)}`); });
page.on('pageerror', error => problems.push(`page: ${error.message.slice(0, 300)}`));
page.on('request', request => {
  const meant = task.elsewhere && request.url().startsWith(task.elsewhere);
  if (!request.url().startsWith(task.root) && !meant) problems.push(`asks elsewhere: ${request.url().slice(0, 200)}`);
});

// A text, or a regular expression between slashes.
const words = text => (text.length > 2 && text.startsWith('/') && text.endsWith('/') ? new RegExp(text.slice(1, -1)) : text);

const verbs = {
  go: path => page.goto(task.root + path, { waitUntil: 'load' }),
  see: text => page.getByText(words(text)).first().waitFor(),
  // A page that does not renew itself is loaded again until the text stands there.
  until: async (path, text) => {
    const end = Date.now() + 3 * LIMIT_MS;
    do {
      await page.goto(task.root + path, { waitUntil: 'load' });
      if (await page.getByText(words(text)).locator('visible=true').count()) return;
      await page.waitForTimeout(1000);
    } while (Date.now() < end);
    throw new Error(`${path} does not say ${text}`);
  },
  cookie: async name => { values[name] = (await context.cookies()).find(one => one.name === name)?.value ?? ''; },
  gone: text => page.getByText(text).first().waitFor({ state: 'detached' }),
  fill: (label, text) => page.getByLabel(label, { exact: true }).locator('visible=true').first().fill(text),
  choose: (label, option) => page.locator('label', { hasText: label }).locator('select').locator('visible=true').first().selectOption(option),
  open: summary => page.locator('summary', { hasText: summary }).first().click(),
  unfold: () => page.evaluate(() => { for (const one of document.querySelectorAll('details')) one.open = true; }),
  press: name => { pressed.add(name); return page.getByRole('button', { name, exact: true }).locator('visible=true').first().click(); },
  follow: name => page.getByRole('link', { name }).first().click(),
  keys: async (...keys) => { for (const key of keys) await page.keyboard.press(key); },
  focus: async name => { values[name] = await page.evaluate(() => document.activeElement.textContent.trim()); },
  read: async (name, selector) => { values[name] = await page.locator(selector).first().innerText(); },
  value: async (name, selector) => { values[name] = await page.locator(selector).first().inputValue(); },
  spot: selector => page.locator(selector).first().focus(),
  wide: async name => { values[name] = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth); },
  spoil: html => page.evaluate(text => document.querySelector('main').insertAdjacentHTML('beforeend', text), html),
  picture: name => page.screenshot({ path: `${task.folder}/${name}.png`, fullPage: true }),
  axe: async name => {
    await page.evaluate(axe);
    const { violations: found } = await page.evaluate(() => window.axe.run(document));
    for (const one of found) {
      const nodes = one.nodes.slice(0, 3).map(node => node.html.slice(0, 200));
      violations.push({ page: name, rule: one.id, impact: one.impact, help: one.help, nodes });
    }
  },
};

let done = 0;
try {
  for (const [verb, ...what] of task.steps) {
    // A page is read, and typed into, once its scripts have run.
    await page.waitForLoadState('load');
    // Also those that nobody has opened a summary for.
    if (verb === 'press') for (const name of await page.locator('button').allTextContents()) buttons.add(name.trim());
    await verbs[verb](...what);
    done += 1;
  }
} catch (error) {
  problems.push(`step ${done} ${JSON.stringify(task.steps[done])}: ${error.message.slice(0, 600)}`);
  await page.screenshot({ path: `${task.folder}/failure.png`, fullPage: true }).catch(cause => problems.push(cause.message));
}
await browser.close();
console.log(JSON.stringify({ done, problems, violations, values, buttons: [...buttons], pressed: [...pressed] }));
