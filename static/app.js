// A click posts to /pusher; the event that comes back, over a WebSocket, is alerted.
//
// For tests: body's data-state is connecting, connected, lost, busy, refused or
// blocked; its data-client, once chosen, is pusher-js or stand-in.

const page = document.body.dataset;
const button = document.getElementById('push');
const problem = document.getElementById('problem');
const status = document.getElementById('status');
const sky = document.getElementById('sky');
const still = matchMedia('(prefers-reduced-motion: reduce)');

const LOAD_MS = 3_000; // for pusher-js to arrive
const POST_MS = 15_000; // for the answer to a click
const HIT_MS = 280; // from an event to its alert: the kaomoji hits the pillar meanwhile
const REST_MS = 300; // between two alerts, so that the page can be used
const FLYERS = 8; // in the air at once

const arrived = []; // messages whose alert is still to come
let alerting = false;
let lane = 0; // of the next kaomoji in the air

button.addEventListener('click', click);
show('connecting', 'Connecting…');
listen(await loadPusher());

// --- The click ---

async function click() {
  const flyer = takeOff();
  const reason = await post();
  problem.textContent = reason;
  if (reason) turnBack(flyer);
}

// post returns why the click failed, or ''.
async function post() {
  try {
    const response = await fetch('/pusher', { method: 'POST', signal: AbortSignal.timeout(POST_MS) });
    const answer = await response.text();
    console.log(answer);
    if (response.ok) return '';
    // Another type is some proxy's error page.
    const plain = response.headers.get('Content-Type')?.startsWith('text/plain');
    return (plain && answer.trim().slice(0, 500)) || `The server answered with status ${response.status}. Try again in a moment.`;
  } catch (error) {
    console.error(error);
    if (error.name === 'TimeoutError') return `The server did not answer within ${POST_MS / 1000} seconds. Try again in a moment.`;
    return "The server can't be reached. Check that it is running and that this device is online, then click again.";
  }
}

// --- The event ---

// alert() stops the whole page: events that come meanwhile wait their turn.
async function crash(message) {
  arrived.push(message);
  if (alerting) return;
  alerting = true;
  while (arrived.length) {
    const flyer = hit();
    await pause(still.matches ? 0 : HIT_MS);
    alert(arrived.shift());
    await pause(REST_MS / 2);
    flyer.remove();
    await pause(REST_MS / 2);
  }
  alerting = false;
}

// --- The connection ---

// The publisher's file, or the stand-in when that fails or keeps us waiting. If it
// comes after all, it defines a class that nobody uses.
async function loadPusher() {
  const { href, integrity, crossOrigin } = document.getElementById('pusher-js');
  try {
    await new Promise((resolve, reject) => {
      const script = Object.assign(document.createElement('script'), { src: href, integrity, crossOrigin });
      script.onload = resolve;
      script.onerror = () => reject(new Error('it failed to load'));
      setTimeout(() => reject(new Error(`it did not load within ${LOAD_MS / 1000} s`)), LOAD_MS);
      document.head.append(script);
    });
    page.client = 'pusher-js';
    return window.Pusher;
  } catch (error) {
    console.info(`${href}: ${error.message}; its stand-in takes over.`);
    const { Pusher } = await import('./channels.js');
    page.client = 'stand-in';
    return Pusher;
  }
}

function listen(Pusher) {
  Pusher.logToConsole = page.debug === 'true';
  const options = connectionOptions();
  const pusher = new Pusher(page.key, options);
  const { connection } = pusher;
  const channel = pusher.subscribe(page.channel);
  let subscribed = false;
  let everSubscribed = false;
  let code; // why the server closed, until it lets us in again

  channel.bind(page.event, (data) => crash(data?.message));

  // Connected is not enough: only a subscribed page hears its own click.
  channel.bind('pusher:subscription_succeeded', () => {
    subscribed = everSubscribed = true;
    code = undefined;
    show('connected', 'Connected: a click reaches every open page, this one too.');
  });

  connection.bind('error', (error) => {
    // A close is in error.error; a message that refuses the subscription is not.
    const given = error?.error?.data?.code ?? (subscribed ? undefined : error?.data?.code);
    if (!(given >= 4000)) return;
    code = given;
    showOffline();
  });
  // pusher-js stays in state "connected" during the second before its first try.
  connection.bind('connecting_in', showOffline);
  connection.bind('state_change', ({ current }) => {
    if (current !== 'connected') showOffline();
  });
  showOffline(); // the constructor may have failed before the lines above
  if (!options.hosted) hurry();

  function showOffline() {
    subscribed = false;
    if (code) show(...refusal(code));
    else if (everSubscribed) show('lost', 'Connection lost. Trying again…');
    else if (connection.state === 'unavailable') show('blocked', `Can't connect to ${options.name}: a proxy, a firewall or a browser extension may be blocking WebSockets. Try another network or browser; this page keeps trying. If it fails everywhere, whoever runs the page should check that address.`);
    else if (connection.state === 'failed') show('blocked', 'This browser has no WebSockets, or they are switched off. Switch them on or use another browser, then reload the page.');
    else show('connecting', 'Connecting…');
  }

  // After a try that fails, pusher-js waits 15, 30, then 60 s: long for a server of
  // one's own that was only restarted. Tries here are 3 s apart at first, then 15.
  async function hurry() {
    let wait = 3_000;
    for (;;) {
      await pause(wait * (1 + Math.random() / 4));
      const trying = everSubscribed && ['connecting', 'unavailable'].includes(connection.state);
      wait = trying ? Math.min(wait * 1.5, 15_000) : 3_000;
      if (!trying) continue;
      pusher.disconnect();
      pusher.connect();
    }
  }
}

// connectionOptions also says whether the server is Pusher's own, and its name for people.
function connectionOptions() {
  const { cluster, socket } = page;
  if (cluster && !socket) return { cluster, forceTLS: true, hosted: true, name: `ws-${cluster}.pusher.com` };
  const url = new URL(socket || location.origin);
  const tls = ['https:', 'wss:'].includes(url.protocol);
  const port = Number(url.port) || (tls ? 443 : 80);
  return {
    cluster: cluster || 'local', // pusher-js insists on one
    wsHost: url.hostname,
    wsPort: port,
    wssPort: port,
    wsPath: url.pathname.replace(/\/$/, ''),
    forceTLS: tls,
    enabledTransports: ['ws'], // with TLS or without; "wss" would try TLS on a plain port
    name: url.host,
  };
}

// refusal returns the state and the words for a close code of the Channels protocol.
function refusal(code) {
  const where = page.cluster ? `cluster ${page.cluster}` : 'the server';
  if (code === 4001) return ['refused', `Refused (code 4001): this page's app key is not known to ${where}. Whoever runs the page should check its key and cluster, restart it and reload.`];
  if (code === 4004) return ['refused', 'Refused (code 4004): the app is over its Pusher quota. Whoever runs the page can wait until the quota is renewed or take a larger plan; then reload.'];
  if (code === 4100) return ['busy', 'The server is over capacity (code 4100) and takes no more connections for now. Trying again…'];
  if (code > 4100 && code < 4200) return ['busy', `The server asked this page to wait (code ${code}). Trying again…`];
  if (code >= 4200 && code < 4300) return ['lost', 'Connection lost. Trying again…'];
  return ['refused', `Refused (code ${code}). Reload to try again; if that changes nothing, whoever runs the page should look this code up in Pusher's documentation.`];
}

function show(state, text) {
  page.state = state;
  if (status.textContent !== text) status.textContent = text;
}

// --- The joke, moved by style.css ---

function takeOff() {
  if (sky.querySelectorAll('.flyer').length >= FLYERS) return;
  const flyer = newFlyer('flying');
  setTimeout(() => flyer.dataset.phase === 'flying' && turnBack(flyer), POST_MS); // its event never came
  return flyer;
}

function hit() {
  const flyer = sky.querySelector('[data-phase=flying]') ?? newFlyer('hit');
  flyer.dataset.phase = 'hit';
  return flyer;
}

function turnBack(flyer) {
  if (flyer?.dataset.phase !== 'flying') return;
  flyer.dataset.phase = 'back';
  setTimeout(() => flyer.remove(), 700);
}

function newFlyer(phase) {
  const flyer = document.createElement('span');
  flyer.className = 'flyer';
  flyer.dataset.phase = phase;
  flyer.dataset.lane = lane++ % 3; // many in the air don't hide each other
  sky.append(flyer);
  return flyer;
}

// Not requestAnimationFrame: it does not run in a background tab.
function pause(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
