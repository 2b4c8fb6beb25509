// usage: node open_study.mjs '{"url": …, "chromium": …, "modules": …, "folder": …, "captions": ["…"]}'
//
// Opens a study in OHIF as a reader does: waits for the list of series, opens each series whose caption holds one of
// the given texts, accepts the question whether to open a segmentation, leafs through the images of the series, and
// writes a picture of the page and of each image's canvas into the folder. Prints one JSON object: series, opened,
// problems. `modules` is the folder that holds playwright-core.
import { writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';

const task = JSON.parse(process.argv[2]);
const { chromium } = createRequire(`${task.modules}/`)('playwright-core');
const THUMBNAIL = '[data-cy="study-browser-thumbnail"], [data-cy="study-browser-thumbnail-no-image"]';
// For a machine that does much else: the whole cine is fetched before it is drawn.
const LIMIT_MS = 240_000;
const QUIET_MS = 1_500;
// More images than any key-phase series has: a whole cine is not leafed through.
const MAXIMUM_IMAGES = 30;

const browser = await chromium.launch({
  executablePath: task.chromium,
  args: [
    '--no-sandbox', '--no-first-run', '--disable-quic', '--disable-background-networking',
    '--disable-component-update', '--disable-sync', '--use-gl=angle', '--use-angle=swiftshader',
    '--enable-unsafe-swiftshader', '--ignore-gpu-blocklist',
  ],
});
const page = await browser.newPage({ viewport: { width: 1500, height: 900 } });

const problems = new Set();
let busy = 0;
let lastTraffic = Date.now();
const traffic = change => { busy += change; lastTraffic = Date.now(); };
page.on('console', message => { if (message.type() === 'error') problems.add(`console: ${message.text().slice(0, 400)}`); });
page.on('pageerror', error => problems.add(`page: ${error.message.slice(0, 400)}`));
page.on('crash', () => problems.add('page: crashed'));
page.on('request', () => traffic(1));
page.on('requestfinished', () => traffic(-1));
page.on('requestfailed', request => {
  traffic(-1);
  const reason = request.failure()?.errorText ?? '';
  // A viewer cancels what it no longer needs.
  if (reason !== 'net::ERR_ABORTED') problems.add(`request: ${reason} ${request.url().slice(0, 200)}`);
});
page.on('response', response => {
  if (response.status() >= 400) problems.add(`HTTP ${response.status()} ${response.url().slice(0, 200)}`);
});

const pause = milliseconds => new Promise(done => setTimeout(done, milliseconds));

// Until every canvas shows its image and the network has been quiet for a while.
async function settled(quiet = QUIET_MS) {
  const deadline = Date.now() + LIMIT_MS;
  for (;;) {
    const drawn = await page.evaluate(() =>
      window.cornerstone.getRenderingEngines().flatMap(engine => engine.getViewports())
        .every(viewport => viewport.viewportStatus === 'rendered' || viewport.type === undefined));
    if (drawn && busy <= 0 && Date.now() - lastTraffic > quiet) return;
    if (Date.now() > deadline) {
      problems.add(`not drawn within ${LIMIT_MS} ms (${busy} requests open)`);
      return;
    }
    await pause(100);
  }
}

// What the viewport shows: its pixels, the image, where three corners of the image lie on the canvas, the segments.
const shown = () => page.evaluate(() => {
  const [viewport] = window.cornerstone.getRenderingEngines().flatMap(engine => engine.getViewports());
  if (!viewport) return null;
  const imageId = viewport.getCurrentImageId?.() ?? null;
  const plane = imageId && window.cornerstone.metaData.get('imagePlaneModule', imageId);
  const sop = imageId && window.cornerstone.metaData.get('sopCommonModule', imageId);
  const onCanvas = (row, column) => {
    // Pixel centres, in patient coordinates (PS3.3 C.7.6.2.1.1).
    const point = [0, 1, 2].map(axis => plane.imagePositionPatient[axis]
      + plane.rowCosines[axis] * plane.columnPixelSpacing * column
      + plane.columnCosines[axis] * plane.rowPixelSpacing * row);
    const [x, y] = viewport.worldToCanvas(point);
    return [x * window.devicePixelRatio, y * window.devicePixelRatio];
  };
  const service = window.services.segmentationService;
  return {
    sop_instance_uid: sop?.sopInstanceUID ?? null,
    images: viewport.getImageIds?.().length ?? 0,
    corners: plane?.imagePositionPatient && plane.rowCosines
      ? { origin: onCanvas(0, 0), next_row: onCanvas(1, 0), next_column: onCanvas(0, 1) } : null,
    segments: service.getSegmentationRepresentations(viewport.id).flatMap(({ segmentationId, segments }) =>
      Object.entries(segments).map(([index, { color }]) => ({
        label: service.getSegmentation(segmentationId).segments[index]?.label ?? '',
        color: [...color].slice(0, 3),
      }))),
    canvas: viewport.canvas.toDataURL('image/png'),
  };
});

const turnTo = index => page.evaluate(async number => {
  const [viewport] = window.cornerstone.getRenderingEngines().flatMap(engine => engine.getViewports());
  await viewport.setImageIdIndex(number);
}, index);

async function image(name) {
  const { canvas, images, ...what } = await shown();
  const file = `${task.folder}/${name}.png`;
  await writeFile(file, Buffer.from(canvas.split(',')[1], 'base64'));
  return { ...what, canvas: file };
}

// Every image of the open series, then the page with the middle one.
async function leaf(name) {
  const open = await shown();
  if (open === null || open.images < 2 || open.images > MAXIMUM_IMAGES) return open === null ? [] : [await image(name)];
  const images = [];
  for (let index = 0; index < open.images; index++) {
    await turnTo(index);
    await settled(300);
    images.push(await image(`${name}-image-${index}`));
  }
  await turnTo(open.images >> 1);
  await settled(300);
  return images;
}

// The reader of embedded documents is no part of the page: that it has drawn is seen only from outside.
async function documentDrawn() {
  const deadline = Date.now() + LIMIT_MS;
  for (;;) {
    const picture = (await page.screenshot()).toString('base64');
    const white = await page.evaluate(async data => {
      const bytes = Uint8Array.from(atob(data), character => character.charCodeAt(0));
      const bitmap = await createImageBitmap(new Blob([bytes], { type: 'image/png' }));
      const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
      const context = canvas.getContext('2d');
      context.drawImage(bitmap, 0, 0);
      const { data: pixels } = context.getImageData(0, 0, bitmap.width, bitmap.height);
      let count = 0;
      for (let i = 0; i < pixels.length; i += 4) count += pixels[i] > 230 && pixels[i + 1] > 230 && pixels[i + 2] > 230;
      return count / (bitmap.width * bitmap.height);
    }, picture);
    if (white > 0.15) return;
    if (Date.now() > deadline) {
      problems.add(`no page of the document drawn within ${LIMIT_MS} ms`);
      return;
    }
    await pause(500);
  }
}

async function picture(name, caption, asked) {
  await settled();
  const images = await leaf(`${name}-canvas`);
  const embedded = await page.$$eval('object[data], embed[src], iframe[src]', all => all.map(one => one.data ?? one.src));
  if (embedded.length > 0) {
    await documentDrawn();
    await pause(1_000);
  }
  const screenshot = `${task.folder}/${name}.png`;
  await page.screenshot({ path: screenshot });
  const complaints = await page.$$eval('[data-sonner-toast][data-type="error"]', all => all.map(one => one.innerText));
  complaints.forEach(text => problems.add(`notification: ${text.slice(0, 400)}`));
  return { caption, asked, screenshot, images, embedded };
}

const oneLine = async element => (await element.innerText()).replace(/\s+/g, ' ').trim();

async function open(caption, number) {
  for (const thumbnail of await page.$$(THUMBNAIL)) {
    const text = await oneLine(thumbnail);
    if (!text.includes(caption)) continue;
    await thumbnail.scrollIntoViewIfNeeded();
    await thumbnail.dblclick();
    const yes = page.getByText('Yes', { exact: true });
    const asked = /^(SEG|SR|RTSTRUCT)\b/.test(text)
      && await yes.first().waitFor({ timeout: 30_000 }).then(() => true, () => false);
    if (asked) {
      await yes.first().click();
      await pause(500);
    }
    return picture(`series-${number}`, text, asked);
  }
  problems.add(`no series with the caption ${JSON.stringify(caption)}`);
  return null;
}

let series = [];
const opened = [];
try {
  await page.goto(task.url, { waitUntil: 'load', timeout: LIMIT_MS });
  await page.waitForSelector(THUMBNAIL, { timeout: LIMIT_MS });
  await settled();
  const skip = page.getByText('Skip all');
  if (await skip.count()) await skip.first().click();
  for (const thumbnail of await page.$$(THUMBNAIL)) series.push(await oneLine(thumbnail));
  opened.push(await picture('study', '', false));
  for (const [index, caption] of task.captions.entries()) {
    const result = await open(caption, index + 1);
    if (result) opened.push(result);
  }
} catch (error) {
  problems.add(`driver: ${error.message.slice(0, 600)}`);
  await page.screenshot({ path: `${task.folder}/failure.png` }).catch(cause => problems.add(`driver: ${cause.message}`));
}
await browser.close();
console.log(JSON.stringify({ series, opened, problems: [...problems] }));
