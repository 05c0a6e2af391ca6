// A fallback for when pusher-js can't be loaded. It implements the parts of the pusher-js API that
// app.js and connection.js use, for public channels, over a WebSocket (Channels protocol 7).

const UNAVAILABLE_MS = 10_000; // time without a connection before the state becomes "unavailable"
const ATTEMPT_MS = 15_000; // how long an attempt to connect may take, including the handshake
const RETRY_MS = 1_000; // the wait before the first attempt to reconnect, without the random part
const RETRY_MAX_MS = 10_000; // the longest wait before a later attempt, without the random part

class Emitter {
  #callbacks = new Map();

  constructor(name) {
    this.name = name;
  }

  bind(event, callback) {
    this.#callbacks.set(event, [...(this.#callbacks.get(event) ?? []), callback]);
    return this;
  }

  emit(event, data) {
    for (const callback of this.#callbacks.get(event) ?? []) callback(data);
  }
}

export class Pusher {
  static logToConsole = false;
  #channels = new Map();

  constructor(key, options) {
    this.connection = new Connection(serverURL(key, options), options);
    this.connection.bind('state_change', ({ current }) => {
      if (current === 'connected') for (const name of this.#channels.keys()) this.#subscribe(name);
    });
    this.connection.bind('message', ({ event, channel, data }) => {
      if (event === 'pusher_internal:subscription_succeeded') event = 'pusher:subscription_succeeded';
      if (!event.startsWith('pusher_internal:')) this.#channels.get(channel)?.emit(event, data);
    });
    this.connect();
  }

  subscribe(name) {
    if (!this.#channels.has(name)) {
      this.#channels.set(name, new Emitter(name));
      if (this.connection.state === 'connected') this.#subscribe(name);
    }
    return this.#channels.get(name);
  }

  connect() {
    this.connection.connect();
  }

  disconnect() {
    this.connection.disconnect();
  }

  send_event(event, data) {
    this.connection.send_event(event, data);
  }

  #subscribe(channel) {
    this.send_event('pusher:subscribe', { auth: '', channel });
  }
}

class Connection extends Emitter {
  state = 'initialized';
  socket_id;
  #url;
  #socket;
  #timer; // runs the next step: opens the socket, sends a ping, or gives up
  #unavailableTimer;
  #activityTimeout; // ms without a message before a ping is sent
  #serverTimeout; // the server's value for #activityTimeout; the shorter one applies
  #pongTimeout; // ms to wait for a pong
  #failures = 0; // consecutive attempts that failed
  #openedAt = -Infinity;

  constructor(url, { activityTimeout, pongTimeout }) {
    super();
    this.#url = url;
    this.#activityTimeout = activityTimeout;
    this.#pongTimeout = pongTimeout;
    addEventListener('online', () => {
      if (['connecting', 'unavailable'].includes(this.state)) this.#open();
    });
    addEventListener('offline', () => {
      if (this.state === 'connected') this.#ping();
    });
  }

  connect() {
    if (['connecting', 'connected', 'unavailable'].includes(this.state)) return;
    if (!globalThis.WebSocket) return this.#setState('failed');
    this.#startConnecting();
    this.#open();
  }

  disconnect() {
    this.#drop();
    this.#setState('disconnected');
  }

  send_event(event, data) {
    log('sent', { event, data });
    this.#socket?.send(JSON.stringify({ event, data }));
  }

  #open() {
    this.#drop();
    this.#openedAt = performance.now();
    try {
      this.#socket = new WebSocket(this.#url);
    } catch {
      return this.#handleClose(1006, 'blocked by the browser');
    }
    this.#socket.onmessage = ({ data }) => this.#receive(data);
    this.#socket.onclose = ({ code, reason }) => this.#handleClose(code, reason);
    this.#schedule(ATTEMPT_MS, () => this.#handleClose(1006, 'no handshake in time'));
  }

  #receive(frame) {
    const message = parse(frame);
    if (typeof message?.event !== 'string') return log('ignored', frame);
    log('received', message);
    if (typeof message.data === 'string') message.data = parse(message.data) ?? message.data;
    const { event, data } = message;

    if (this.state !== 'connected') {
      if (event === 'pusher:error') this.#handleClose(data?.code, data?.message);
      if (event !== 'pusher:connection_established') return;
      this.socket_id = data?.socket_id;
      this.#serverTimeout = data?.activity_timeout * 1000 || Infinity;
      this.#failures = 0;
      this.#waitForMessage();
      this.#setState('connected');
      return;
    }
    this.#waitForMessage();
    if (event === 'pusher:ping') this.send_event('pusher:pong', {});
    if (event === 'pusher:error') this.emit('error', { type: 'PusherError', data });
    this.emit('message', message);
  }

  // Any message shows that the connection is alive. If none arrives for a while, send a ping.
  #waitForMessage() {
    this.#schedule(Math.min(this.#activityTimeout, this.#serverTimeout), () => this.#ping());
  }

  #ping() {
    this.send_event('pusher:ping', {});
    this.#schedule(this.#pongTimeout, () => this.#handleClose(1006, 'no pong in time'));
  }

  #handleClose(code, message) {
    this.#drop();
    if (code !== 1000 && code !== 1001) {
      this.emit('error', { type: 'WebSocketError', error: { type: 'PusherError', data: { code, message } } });
    }
    if ((code >= 4000 && code < 4100) || code >= 4300) return this.#setState('disconnected');
    // A close code shows that the server is available, so the countdown to "unavailable" restarts.
    if (this.state === 'connected' || code >= 4100) this.#startConnecting();
    this.#schedule(this.#delay(code), () => this.#open());
  }

  // #delay returns how many ms to wait before the next attempt: 0 after a close code 42xx, unless
  // the last attempt began less than a second ago. Otherwise, the wait starts at one second and
  // doubles with each failure, up to RETRY_MAX_MS. A random part is added, so that pages that lost
  // their server at the same time don't all reconnect at once.
  #delay(code) {
    if (code >= 4200 && performance.now() - this.#openedAt > RETRY_MS) return 0;
    return Math.min(RETRY_MS * 2 ** this.#failures++, RETRY_MAX_MS) * (1 + Math.random() / 4);
  }

  // #drop closes the socket without waiting for its close event, which may take minutes if the
  // connection is dead.
  #drop() {
    clearTimeout(this.#timer);
    if (!this.#socket) return;
    this.#socket.onmessage = this.#socket.onclose = null;
    this.#socket.close();
    this.#socket = undefined;
  }

  #startConnecting() {
    this.#setState('connecting');
    this.#unavailableTimer = setTimeout(() => this.#setState('unavailable'), UNAVAILABLE_MS);
  }

  #setState(current) {
    clearTimeout(this.#unavailableTimer);
    const previous = this.state;
    if (current === previous) return;
    this.state = current;
    log('state', `${previous} -> ${current}`);
    this.emit('state_change', { previous, current });
  }

  #schedule(ms, action) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(action, ms);
  }
}

// serverURL returns the URL of the WebSocket. Like pusher-js, it always uses TLS if the page does.
function serverURL(key, { cluster, wsHost = `ws-${cluster}.pusher.com`, wsPort = 80, wssPort = 443, wsPath = '', forceTLS = true }) {
  const tls = forceTLS || location.protocol === 'https:';
  const origin = tls ? `wss://${wsHost}:${wssPort}` : `ws://${wsHost}:${wsPort}`;
  return `${origin}${wsPath}/app/${encodeURIComponent(key)}?protocol=7&client=js&version=8.6.0&flash=false`;
}

function parse(json) {
  try {
    return JSON.parse(json);
  } catch {
    return undefined;
  }
}

function log(...what) {
  if (Pusher.logToConsole) console.log('channels.js', ...what);
}
