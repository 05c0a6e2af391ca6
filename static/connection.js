// Loads the Channels client and keeps it connected. Shows the state of the connection, and why a
// click failed.
//
// style.css and the tests read body's data-state (connecting, connected, lost, busy, refused or
// blocked). The tests also read its data-client (pusher-js or fallback).

import { eventArrives, turnBack } from './kaomoji.js';

const LOAD_MS = 3_000; // how long pusher-js may take to load
const ACTIVITY_MS = 15_000; // time without a message before a ping is sent
const PONG_MS = 12_000; // how long a pong may take before the connection counts as dead
const RETRY_MS = 200; // retrySooner's shortest wait before an attempt, without the random part
const RETRY_MAX_MS = 10_000; // retrySooner's longest wait, without the random part

const page = document.body.dataset;
const status = document.getElementById('status');
const problem = document.getElementById('problem');
let stateChanges = 0;

// A browser without this function is too old. The status then keeps the text from index.html.
if (!AbortSignal.timeout) throw new Error('This browser is too old.');
show('connecting', 'Connecting…');

// --- The client ---

// loadPusher resolves to pusher-js or, if that fails to load or takes too long, to the
// fallback. If pusher-js loads later, it is not used.
export async function loadPusher() {
  const Pusher = await loadLibrary().catch(loadFallback);
  Pusher.logToConsole = page.debug === 'true';
  return Pusher;
}

async function loadLibrary() {
  const { href, integrity, crossOrigin } = document.getElementById('pusher-js');
  await new Promise((resolve, reject) => {
    const script = Object.assign(document.createElement('script'), { src: href, integrity, crossOrigin });
    script.onload = resolve;
    script.onerror = () => reject(new Error(`${href} failed to load`));
    setTimeout(() => reject(new Error(`${href} did not load within ${LOAD_MS / 1000} s`)), LOAD_MS);
    document.head.append(script);
  });
  page.client = 'pusher-js';
  return window.Pusher;
}

async function loadFallback(error) {
  console.info(`${error.message}. Using the fallback, channels.js.`);
  try {
    const { Pusher } = await import('./channels.js');
    page.client = 'fallback';
    return Pusher;
  } catch (error) {
    console.error(error);
    show('blocked', "A script that this page needs can't be loaded. Reload the page.");
    return new Promise(() => {}); // never resolves: without a client, the page can't connect
  }
}

// connectionOptions returns the options for new Pusher.
export function connectionOptions() {
  const timeouts = { activityTimeout: ACTIVITY_MS, pongTimeout: PONG_MS };
  const { cluster } = page;
  if (isHosted()) return { cluster, forceTLS: true, ...timeouts };
  const url = serverURL();
  const tls = url.protocol === 'wss:';
  const port = Number(url.port) || (tls ? 443 : 80);
  return {
    cluster: cluster || 'local', // pusher-js requires one
    wsHost: url.hostname,
    wsPort: port,
    wssPort: port,
    wsPath: url.pathname.replace(/\/$/, ''),
    forceTLS: tls,
    enabledTransports: ['ws'], // 'wss' would make pusher-js try TLS on any port
    ...timeouts,
  };
}

// isHosted reports whether the page connects to Pusher, not to a self-hosted or embedded server.
function isHosted() {
  return Boolean(page.cluster && !page.socket);
}

// serverURL returns the WebSocket URL of the Channels server, without /app/KEY.
function serverURL() {
  const url = new URL(page.socket || (isHosted() ? `wss://ws-${page.cluster}.pusher.com` : location.origin));
  url.protocol = url.protocol.replace('http', 'ws');
  return url;
}

// --- The connection ---

// watchConnection shows the state of the connection, detects when it is dead, and reconnects
// earlier than the client would.
export function watchConnection(pusher, channel) {
  const { connection } = pusher;
  let subscribed = false;
  let everSubscribed = false;
  let rejection; // why the server closed the last connection, or rejected the subscription to a channel: { code, message, channel }
  let pongTimer;

  // A page receives events only once it is subscribed.
  channel.bind('pusher:subscription_succeeded', () => {
    subscribed = everSubscribed = true;
    rejection = undefined;
    update();
  });
  channel.bind('pusher:subscription_error', ({ error, status }) => rejectSubscription({ message: error ?? `status ${status}` }));
  connection.bind('error', (error) => {
    const closed = error?.error?.data; // a close code; error.data has the data of a pusher:error message
    if (closed?.code) {
      // A 42xx code only asks the page to reconnect, which it does anyway.
      rejection = closed.code >= 4000 && Math.floor(closed.code / 100) !== 42 ? closed : undefined;
      noteLoss();
    } else if (error?.data && !subscribed) {
      rejectSubscription(error.data);
    }
  });
  // pusher-js stays in the state "connected" during the second before it reconnects.
  connection.bind('connecting_in', noteLoss);
  connection.bind('state_change', ({ current }) => {
    clearTimeout(pongTimer);
    if (current === 'unavailable') rejection = undefined; // the server has not responded for 10 s
    if (current !== 'connected') noteLoss();
  });
  connection.bind('message', () => clearTimeout(pongTimer));
  addEventListener('online', verify);
  addEventListener('online', update);
  addEventListener('offline', update);
  addEventListener('pageshow', (event) => event.persisted && verify());
  document.addEventListener('visibilitychange', () => document.hidden || verify());
  if (page.client === 'pusher-js' && !isHosted()) retrySooner(window.Pusher);
  update(); // because the first attempt may have failed already

  function noteLoss() {
    subscribed = false;
    update();
  }

  function rejectSubscription({ code, message }) {
    rejection = { code, message, channel: channel.name };
    update();
  }

  function update() {
    if (subscribed) show('connected', 'Connected. A click alerts every open page, including this one.');
    else if (rejection) show(...explainRejection(rejection));
    else if (!navigator.onLine) show(everSubscribed ? 'lost' : 'connecting', 'This device is offline. Trying again…');
    else if (everSubscribed) show('lost', 'Connection lost. Reconnecting…');
    else if (connection.state === 'unavailable') show('blocked', explainUnavailable());
    else if (connection.state === 'failed') show('blocked', 'WebSockets are not available in this browser. Enable them or use another browser, then reload the page.');
    else show('connecting', 'Connecting…');
  }

  function reconnect() {
    pusher.disconnect();
    pusher.connect();
  }

  // After sleep or a change of network, a WebSocket can look open although it is dead. verify
  // detects that earlier than the client's own pings would.
  function verify() {
    if (connection.state === 'unavailable') reconnect();
    if (connection.state !== 'connected') return;
    pusher.send_event('pusher:ping', {});
    clearTimeout(pongTimer);
    pongTimer = setTimeout(reconnect, PONG_MS);
  }

  // After a failed attempt, pusher-js waits 15, 30, then 60 s, which is too long when a
  // self-hosted server was only restarted. pusher-js has no event for failed attempts, so
  // retrySooner watches its WebSockets.
  function retrySooner({ Runtime }) {
    const { createWebSocket } = Runtime;
    let newest;
    let failures = 0;
    Runtime.createWebSocket = (url) => {
      const socket = createWebSocket.call(Runtime, url);
      newest = socket;
      socket.addEventListener('close', () => {
        failures = subscribed ? 0 : failures + 1;
        const wait = Math.min(RETRY_MS * 1.5 ** failures, RETRY_MAX_MS);
        setTimeout(() => {
          const lost = everSubscribed && !rejection && ['connecting', 'unavailable'].includes(connection.state);
          if (lost && newest === socket) reconnect(); // no other attempt is in flight
        }, wait * (1 + Math.random() / 2)); // random, so that pages don't all reconnect at once
      });
      return socket;
    };
  }
}

function explainUnavailable() {
  const { protocol, host } = serverURL();
  if (location.protocol === 'https:' && protocol === 'ws:') {
    return `A page that was loaded over HTTPS can connect only to a wss:// address, but the server's address is ws://${host}. The site owner should set PUSHER_SOCKET_URL to a wss:// address.`;
  }
  const origin = isHosted() ? '' : `, or the server might not accept pages from ${location.origin}`;
  return `Can't connect to ${host}. A proxy, a firewall or a browser extension may be blocking WebSockets${origin}. Still trying. Try another network or browser. If that doesn't help, the site owner should check the server's address.`;
}

// explainRejection returns the state and the text to show for a Channels close code, or for a
// rejected subscription: the server's own words first, then advice if the code says what to do.
function explainRejection({ code, message, channel }) {
  const words = message ? `: ${String(message).trim().slice(0, 200).replace(/([^.?!])$/, '$1.')}` : '.';
  const reason = code ? ` (code ${code})${words}` : words;
  if (channel) return ['refused', `The server rejected the subscription to ${channel}${reason}`];
  if (code === 4001) return ['refused', `Refused${reason} The server doesn't know this page's app key. The site owner should check the app's settings, restart the app, and reload this page.`];
  if (code === 4004) return ['refused', `Refused${reason} The app is over its connection quota. Close other pages, then reload this one. If that doesn't help, the site owner needs a larger Pusher plan.`];
  if (code >= 4100 && code < 4200) return ['busy', `The server isn't accepting connections right now${reason} Trying again…`];
  return ['refused', `Refused${reason} Reload to try again. If that doesn't help, the site owner should look up this code in the server's documentation.`];
}

function show(state, text) {
  if (page.state !== state) stateChanges++;
  page.state = state;
  if (status.textContent !== text) status.textContent = text;
}

// --- The click ---

let clicks = 0;
let reported = 0; // the newest click whose result is shown

// reportClick waits for a click's response and event, and shows what failed. The result of a
// click never replaces the result of a newer click.
export async function reportClick(request, flight) {
  const click = ++clicks;
  const changesBefore = stateChanges;
  const report = (text) => {
    if (click < reported) return;
    reported = click;
    problem.textContent = text;
  };
  const reason = await whyFailed(request, flight);
  report(reason);
  if (!reason) {
    if (await eventArrives(flight)) return;
    report(explainMissingEvent(stateChanges !== changesBefore));
  }
  turnBack(flight);
}

// explainMissingEvent returns the text for an accepted click whose event has not arrived.
function explainMissingEvent(stateChanged) {
  if (page.state !== 'connected') return "The server accepted the click, but this page is not connected, so it can't show the alert. The status below says why.";
  if (stateChanged) return "The server accepted the click while this page was not connected, so it can't show the alert. Click again.";
  return "The server accepted the click, but the event has not reached this page. Reload the page. If that doesn't help, the site owner should check that the server and the page use the same Channels app.";
}

// whyFailed resolves to the reason why a request failed, or to '' if it succeeded.
async function whyFailed(request, flight) {
  try {
    const response = await request;
    const text = await response.text();
    console.log(text);
    if (response.ok) return '';
    // The app sets this header; a proxy's own error pages usually don't have it.
    if (response.status === 404 && response.headers.has('Content-Security-Policy')) return `The server has no handler for ${new URL(response.url).pathname}. The site owner should add one in main.go, then restart the app.`;
    // An error that is not text/plain comes from a proxy.
    const plain = response.headers.get('Content-Type')?.startsWith('text/plain');
    return (plain && text.trim().slice(0, 500)) || `The server responded with status ${response.status}. Try again in a moment.`;
  } catch (error) {
    // An open alert pauses the page's scripts, and the request can time out meanwhile.
    const timedOut = error.name === 'TimeoutError' || error.name === 'AbortError'; // Chrome before 124
    if (timedOut && flight.arrived) return '';
    console.error(error);
    if (timedOut) return 'The server did not respond in time, so the event may or may not have been sent. Try again in a moment.';
    return "The server can't be reached. Check that it is running and that this device is online, then click again.";
  }
}

