// Loads the Channels client, and shows the state of its connection. body's data-client is pusher-js or
// fallback; its data-state is connecting, connected, lost, busy, refused or blocked.

const LOAD_MS = 3_000; // how long pusher-js may take to load
const ACTIVITY_MS = 15_000; // time without a message before a ping is sent
const PONG_MS = 12_000; // how long a pong may take before the connection counts as dead
const UNAVAILABLE_MS = 3_000; // how long the first attempt to connect to a self-hosted server may take

const page = document.body.dataset;
const status = document.getElementById('status');
const hosted = page.cluster !== ''; // by Pusher; otherwise, the server is self-hosted or embedded
const server = new URL(page.socket || '.', location.href);

const unavailable = location.protocol === 'https:' && server.protocol === 'ws:'
  ? "A page that was loaded over HTTPS can connect only to a wss:// address, but the server's address is " +
    `ws://${server.host}. The site owner should set PUSHER_SOCKET_URL to a wss:// address.`
  : `Can't connect to ${server.host}. A proxy, a firewall or a browser extension may be blocking WebSockets` +
    (hosted ? '' : `, or the server might not accept pages from ${location.origin}`) + '. Still trying. Try another ' +
    "network or browser. If that doesn't help, the site owner should check the server's address, and any proxy.";

// A browser without this function is too old. The status then keeps the text from index.html.
if (!AbortSignal.timeout) throw new Error('This browser is too old.');
show('connecting', 'Connecting…');

// loadPusher resolves to pusher-js or, if that fails to load or takes too long, to the fallback.
export async function loadPusher() {
  const { href, integrity, crossOrigin } = document.getElementById('pusher-js');
  const script = Object.assign(document.createElement('script'), { src: href, integrity, crossOrigin });
  page.client = await new Promise((resolve) => {
    script.onload = () => resolve('pusher-js');
    script.onerror = () => resolve('fallback');
    setTimeout(script.onerror, LOAD_MS);
    document.head.append(script);
  });
  if (page.client === 'fallback') console.info(`${href} did not load. Using the fallback, channels.js.`);
  const { Pusher } = page.client === 'pusher-js' ? window : await import('./channels.js').catch((error) => {
    console.error(error);
    show('blocked', "A script that this page needs can't be loaded. Reload the page.");
    return new Promise(() => {}); // never resolves: without a client, the page can't connect
  });
  Pusher.logToConsole = page.debug === 'true';
  return Pusher;
}

// connectionOptions returns the options for new Pusher.
export function connectionOptions() {
  const timeouts = { activityTimeout: ACTIVITY_MS, pongTimeout: PONG_MS };
  const options = { wsHost: server.hostname, channelAuthorization: { endpoint: 'pusher/auth' }, ...timeouts };
  return hosted ? { ...options, cluster: page.cluster } : {
    ...options,
    cluster: 'local', // pusher-js requires one
    wsPort: Number(server.port) || 80,
    wssPort: Number(server.port) || 443,
    wsPath: server.pathname.replace(/\/$/, ''),
    forceTLS: ['https:', 'wss:'].includes(server.protocol),
    enabledTransports: ['ws'], // 'wss' would make pusher-js try TLS on any port
    unavailableTimeout: UNAVAILABLE_MS,
  };
}

// watchConnection shows the state of the connection, and reconnects if it may be dead.
export function watchConnection(pusher, channel) {
  const { connection } = pusher;
  const reconnect = () => { pusher.disconnect(); pusher.connect(); };
  const noteLoss = () => page.state === 'connected' && showLoss();
  let timer; // reconnects, unless a message arrives or the client's state changes
  let patience = 0; // how many ms longer than UNAVAILABLE_MS the next attempt may take

  // A page receives events only once it is subscribed.
  channel.bind('pusher:subscription_succeeded', () => {
    patience = 0;
    show('connected', 'Connected. A click alerts every open page, including this one.');
  });
  channel.bind('pusher:subscription_error', (e) => refuse({ message: e.error ?? `status ${e.status}` }, channel));
  connection.bind('error', ({ error, data }) => {
    const { code } = error?.data ?? data ?? {};
    if (code && (code < 4000 || Math.floor(code / 100) === 42)) return; // the client reconnects by itself
    if (error && code) refuse(error.data); // a close code
    if (!error && page.state !== 'connected') refuse(data ?? {}, channel); // a message that rejects the subscription
  });
  connection.bind('connecting_in', noteLoss); // a second before pusher-js leaves the state "connected"
  connection.bind('message', () => clearTimeout(timer));
  connection.bind('state_change', ({ current }) => {
    clearTimeout(timer);
    if (current !== 'unavailable') return noteLoss();
    showLoss();
    if (hosted) return;
    // pusher-js would wait for 15, 30, then 60 s, which is too long if a server was only restarted. Each attempt
    // may take longer than the last, so that a slow handshake succeeds. The random part spreads the pages' attempts.
    timer = setTimeout(reconnect, patience + Math.random() * 1000);
    patience = Math.min(patience + 1000, 12_000);
  });
  // After sleep or a change of network, a WebSocket can look open although it is dead.
  addEventListener('online', verify);
  addEventListener('offline', verify);
  addEventListener('pageshow', (event) => event.persisted && verify());
  document.addEventListener('visibilitychange', () => document.hidden || verify());
  showLoss(); // the client may have failed already

  function verify() {
    if (['connecting', 'unavailable'].includes(connection.state)) reconnect();
    if (['connecting', 'lost', 'blocked'].includes(page.state)) showLoss();
    if (connection.state !== 'connected') return;
    pusher.send_event('pusher:ping', {});
    clearTimeout(timer);
    timer = setTimeout(reconnect, PONG_MS);
  }

  // showLoss shows why there is no connection, as far as this page can tell; refuse shows the server's reason.
  function showLoss() {
    const state = connection.socket_id ? 'lost' : 'connecting'; // whether there was a connection before
    if (!navigator.onLine) show(state, 'This device is offline. Trying again…');
    else if (state === 'lost') show(state, 'Connection lost. Reconnecting…');
    else if (connection.state === 'unavailable') show('blocked', unavailable);
    else if (connection.state === 'failed') show('blocked', 'WebSockets are not available in this browser. ' +
      'Enable them or use another browser, then reload the page.');
    else show(state, 'Connecting…');
  }
}

// refuse shows why the server closed the connection or, if a channel is given, rejected the subscription
// to it: the server's own words and, if it refused the connection, advice.
function refuse({ code, message }, channel) {
  const words = message ? `: ${String(message).trim().slice(0, 200).replace(/([^.?!])$/, '$1.')}` : '.';
  const reason = code ? ` (code ${code})${words}` : words;
  const advice = {
    4001: "The server doesn't know this page's app key. The site owner should check the app's settings, restart the " +
      'app, and reload this page.',
    4004: "The app is over its connection quota. Close other pages, then reload this one. If that doesn't help, the " +
      'site owner needs a larger Pusher plan.',
  }[code] ?? "Reload to try again. If that doesn't help, the site owner should look up this code in the server's " +
    'documentation.';
  const busy = `The server isn't accepting connections right now${reason} Trying again…`;
  if (channel) show('refused', `The server rejected the subscription to ${channel.name}${reason}`);
  else if (code >= 4100 && code < 4200) show('busy', busy);
  else show('refused', `The server refused the connection${reason} ${advice}`);
}

function show(state, text) {
  if (page.state !== state) page.state = state;
  if (status.textContent !== text) status.textContent = text;
}
