// Opens the page in two tabs of Firefox, with puppeteer-core, and checks the alerts. One of the
// tabs is always hidden; there, Firefox runs timers only once a second. Then it checks the
// server's close codes.

const assert = require('node:assert');
const { readFileSync } = require('node:fs');
const puppeteer = require('puppeteer-core');

const { FIREFOX, URL: url, IMPATIENT: impatient, MESSAGE: message, PUSHER_JS: library } = process.env;

async function open(browser, served) {
  const page = await browser.newPage();
  page.alerts = [];
  page.on('dialog', async (dialog) => {
    page.alerts.push(dialog.message());
    await dialog.accept();
  });
  page.errors = [];
  page.on('pageerror', (error) => page.errors.push(error.message));
  await page.setRequestInterception(true);
  page.on('request', (request) => {
    if (!request.url().startsWith('https://js.pusher.com/')) return request.continue();
    if (!served) return request.abort();
    request.respond({ contentType: 'text/javascript', headers: { 'Access-Control-Allow-Origin': '*' }, body: readFileSync(library) });
  });
  await page.goto(url);
  await until(page, 'the connection', () => page.evaluate(() => document.body.dataset.state === 'connected'));
  assert.strictEqual(await page.evaluate(() => document.body.dataset.client), served ? 'pusher-js' : 'fallback');
  return page;
}

async function until(page, what, condition) {
  for (const end = Date.now() + 20_000; !(await condition()); await new Promise((resolve) => setTimeout(resolve, 5))) {
    if (Date.now() > end) throw new Error(`timed out waiting for ${what}; the page: ${await page.evaluate(() => document.body.innerText)} ${page.errors}`);
  }
}

async function wantAlert(page) {
  await until(page, 'an alert', () => page.alerts.length > 0);
  assert.strictEqual(page.alerts.shift(), message);
}

// closeCode opens a WebSocket in a page and returns its close code and whether the close was
// clean.
function closeCode(page, url) {
  return page.evaluate((url) => new Promise((resolve) => {
    new WebSocket(url).onclose = ({ code, wasClean }) => resolve(`${code} ${wasClean}`);
  }), `${url.replace('http', 'ws')}/app/local?protocol=7`);
}

// clickIn clicks in the visible page and returns how long the hidden page takes to alert.
async function clickIn(visible, hidden) {
  await visible.bringToFront();
  await until(hidden, 'the tab to be hidden', () => hidden.evaluate(() => document.hidden));
  const began = Date.now();
  await visible.evaluate(() => document.querySelector('.push').click());
  await wantAlert(hidden);
  const took = Date.now() - began;
  await wantAlert(visible);
  return took;
}

(async () => {
  const browser = await puppeteer.launch({ browser: 'firefox', executablePath: FIREFOX, headless: true });
  try {
    for (const served of [true, false]) {
      const one = await open(browser, served);
      const two = await open(browser, served);
      const took = [];
      for (const [visible, hidden] of [[two, one], [one, two], [two, one]]) took.push(await clickIn(visible, hidden));
      console.log(served ? 'pusher-js' : 'fallback', 'alerts in the hidden tab after', took, 'ms');
      assert(took[1] + took[2] < 2500, 'the alerts in a hidden tab were late');
      for (const page of [one, two]) {
        await until(page, 'the trace', () => page.evaluate(() => document.getElementById('trace').textContent.startsWith('Crashes: 3,')));
        assert.deepStrictEqual(page.alerts, []);
        assert.deepStrictEqual(page.errors.filter((text) => !text.includes('https://js.pusher.com/')), []);
        await page.close();
      }
    }
    console.log('all alerted');
    const page = await open(browser, false);
    const closeCodes = readFileSync(`${__dirname}/close-codes.js`, 'utf8');
    console.log(await page.evaluate(`(${closeCodes})(location.origin, document.body.dataset.key)`));
    await page.goto(`${impatient}/app/local`);
    console.log(await closeCode(page, impatient)); // 4201: no activity
    await page.goto('data:text/html,');
    console.log(await closeCode(page, url)); // 4009: another origin
  } finally {
    await browser.close();
  }
})().catch((error) => { console.error(error); process.exitCode = 1; });
