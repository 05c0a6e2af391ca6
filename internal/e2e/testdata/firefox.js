// Opens the page in two tabs of Firefox, with puppeteer-core, and checks the alerts. One of the tabs is always hidden;
// there, Firefox runs timers only once a second. Then it checks the server's close codes.
const assert = require('node:assert');
const { readFileSync } = require('node:fs');
const puppeteer = require('puppeteer-core');

const { FIREFOX, URL: url, IMPATIENT: impatient, MESSAGE: message, PUSHER_JS: library } = process.env;

async function open(browser, served) {
  const page = Object.assign(await browser.newPage(), { alerts: [], errors: [] });
  page.on('dialog', async (dialog) => {
    page.alerts.push(dialog.message());
    await dialog.accept();
  });
  page.on('pageerror', ({ message }) => message.includes('https://js.pusher.com/') || page.errors.push(message));
  await page.setRequestInterception(true);
  page.on('request', (request) => {
    if (!request.url().startsWith('https://js.pusher.com/')) return request.continue();
    if (!served) return request.abort();
    const headers = { 'Access-Control-Allow-Origin': '*' };
    request.respond({ contentType: 'text/javascript', headers, body: readFileSync(library) });
  });
  await page.goto(url);
  await until(page, "document.body.dataset.state === 'connected'");
  assert.strictEqual(await page.evaluate(() => document.body.dataset.client), served ? 'pusher-js' : 'fallback');
  return page;
}

// until waits until a function returns true, or an expression is true in the page.
async function until(page, condition) {
  const done = () => (typeof condition === 'string' ? page.evaluate(condition) : condition());
  for (const end = Date.now() + 20_000; !(await done()); await new Promise((resolve) => setTimeout(resolve, 5))) {
    if (Date.now() < end) continue;
    throw new Error(`timed out waiting for ${condition}; ${await page.evaluate('document.body.innerText')}`);
  }
}

async function wantAlert(page) {
  await until(page, () => page.alerts.length > 0);
  assert.strictEqual(page.alerts.shift(), message);
}

// clickIn clicks in the visible page and returns how long the hidden page takes to alert.
async function clickIn(visible, hidden) {
  await visible.bringToFront();
  await until(hidden, 'document.hidden');
  const began = Date.now();
  await visible.evaluate(() => document.querySelector('.push').click());
  await wantAlert(hidden);
  const took = Date.now() - began;
  await wantAlert(visible);
  return took;
}

process.stdin.on('end', () => process.exit(1)).resume(); // the tests have ended; this ends Firefox, too

(async () => {
  const browser = await puppeteer.launch({ browser: 'firefox', executablePath: FIREFOX, headless: true });
  try {
    for (const served of [true, false]) {
      const [one, two] = await Promise.all([open(browser, served), open(browser, served)]);
      const took = [await clickIn(two, one), await clickIn(one, two), await clickIn(two, one)];
      assert(took[1] + took[2] < 2500, `the alerts in a hidden tab were late: ${took} ms`);
      for (const page of [one, two]) {
        await until(page, "document.getElementById('trace').textContent.startsWith('Crashes: 3,')");
        assert.deepStrictEqual([page.alerts, page.errors], [[], []]);
        await page.close();
      }
    }
    console.log('all alerted');
    const page = await browser.newPage(), script = readFileSync(`${__dirname}/close-codes.js`, 'utf8');
    for (const origin of [`${impatient}/app/local`, 'data:text/html,an opaque origin']) {
      await page.goto(origin);
      console.log(await page.evaluate(`(${script})('${url}', '${impatient}')`));
    }
  } finally {
    await browser.close();
    process.stdin.destroy();
  }
})().catch((error) => { console.error(error); process.exit(1); });
