// A real Chromium, driven by JSON lines (see lines.mjs): windows by name, so
// that a scenario can be two people in front of two screens.
import fs from 'node:fs';
import path from 'node:path';
import { chromium } from 'playwright-core';
import { say, serve } from './lines.mjs';

const args = [
  '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
  '--disable-background-networking', '--disable-component-update', '--disable-sync',
];

/** CHROMIUM, else the distribution's browser, else the one playwright knows of. */
function executable() {
  const usual = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'];
  return process.env.CHROMIUM || usual.find((p) => fs.existsSync(p));
}

let browser;
const windows = new Map();

function page({ window }) {
  const found = windows.get(window);
  if (!found) throw new Error(`no window ${window}`);
  return found;
}

async function open({ window, url, width = 1280, height = 800 }) {
  browser ??= await chromium.launch({ executablePath: executable(), args, headless: true });
  const context = await browser.newContext({ viewport: { width, height } });
  const opened = await context.newPage();
  windows.set(window, opened);
  opened.on('console', (m) => say({ ev: 'console', window, type: m.type(), text: m.text() }));
  opened.on('pageerror', (e) => say({ ev: 'pageerror', window, text: String(e) }));
  await opened.goto(url, { waitUntil: 'domcontentloaded' });
  return { title: await opened.title() };
}

const commands = {
  open,
  async fill(request) {
    await page(request).fill(request.selector, request.text, { timeout: 10_000 });
  },
  async click(request) {
    await page(request).click(request.selector, { timeout: 10_000 });
  },
  async press(request) {
    await page(request).press(request.selector, request.key, { timeout: 10_000 });
  },
  /** Waits until some element matching `selector` contains `text`. */
  async wait_text(request) {
    const { selector, text, timeout = 15_000 } = request;
    const found = page(request).locator(selector).filter({ hasText: text }).first();
    await found.waitFor({ state: 'visible', timeout });
  },
  /** Waits until the first `selector` has the attribute value. */
  async wait_attribute(request) {
    const { selector, name, value, timeout = 15_000 } = request;
    await page(request).locator(`${selector}[${name}="${value}"]`).first()
      .waitFor({ state: 'attached', timeout });
  },
  async texts(request) {
    const all = await page(request).locator(request.selector).allInnerTexts();
    return { texts: all.map((t) => t.trim()) };
  },
  async attribute(request) {
    const { selector, name } = request;
    return { value: await page(request).locator(selector).first().getAttribute(name) };
  },
  /** How far the page is wider than its window: a layout that overflows says > 0. */
  async overflow(request) {
    const wide = () => document.documentElement.scrollWidth - window.innerWidth;
    return { pixels: await page(request).evaluate(wide) };
  },
  async screenshot(request) {
    fs.mkdirSync(path.dirname(request.path), { recursive: true });
    await page(request).screenshot({ path: request.path });
  },
  async close(request) {
    await page(request).context().close();
    windows.delete(request.window);
  },
};

serve(commands, async () => {
  await browser?.close();
});
