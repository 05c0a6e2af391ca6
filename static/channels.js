// Stands in for pusher-js where that can't be had: public channels over one
// WebSocket (Channels protocol 7), in the calls that app.js makes, by their names.

const UNAVAILABLE_MS = 10_000; // without a connection
const ATTEMPT_MS = 15_000; // for one attempt, handshake included
const PONG_MS = 30_000;
const ACTIVITY_MS = 120_000; // at most; the server may ask for less
const RETRY_MS = 1_000;
const RETRY_MAX_MS = 10_000;

class Emitter {
  #callbacks = new Map();

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
    this.connection = new Connection(address(key, options));
    this.connection.bind('state_change', ({ current }) => {
      if (current === 'connected') for (const name of this.#channels.keys()) this.#ask(name);
    });
    this.connection.bind('message', ({ event, channel, data }) => {
      if (event === 'pusher_internal:subscription_succeeded') event = 'pusher:subscription_succeeded';
      if (!event.startsWith('pusher_internal:')) this.#channels.get(channel)?.emit(event, data);
    });
    this.connect();
  }

  subscribe(name) {
    if (!this.#channels.has(name)) {
      this.#channels.set(name, new Emitter());
      if (this.connection.state === 'connected') this.#ask(name);
    }
    return this.#channels.get(name);
  }

  connect() {
    this.connection.connect();
  }

  disconnect() {
    this.connection.disconnect();
  }

  #ask(channel) {
    this.connection.send('pusher:subscribe', { auth: '', channel });
  }
}

class Connection extends Emitter {
  state = 'initialized';
  socket_id;
  #url;
  #socket;
  #timer; // the next thing to do about the socket: open it, ping, give up
  #unavailable;
  #activity = ACTIVITY_MS;
  #failures = 0; // attempts in a row that did not connect
  #opened = -Infinity;

  constructor(url) {
    super();
    this.#url = url;
    addEventListener('online', () => {
      if (['connecting', 'unavailable'].includes(this.state)) this.#open();
    });
  }

  connect() {
    if (['connecting', 'connected', 'unavailable'].includes(this.state)) return;
    if (!globalThis.WebSocket) return this.#become('failed');
    this.#become('connecting');
    this.#open();
  }

  disconnect() {
    this.#drop();
    this.#become('disconnected');
  }

  send(event, data) {
    log('sent', { event, data });
    this.#socket?.send(JSON.stringify({ event, data }));
  }

  #open() {
    this.#drop();
    this.#opened = performance.now();
    try {
      this.#socket = new WebSocket(this.#url);
    } catch {
      return this.#closed(1006, 'blocked'); // by the browser's rules
    }
    this.#socket.onmessage = ({ data }) => this.#receive(data);
    this.#socket.onclose = ({ code, reason }) => this.#closed(code, reason);
    this.#after(ATTEMPT_MS, () => this.#closed(1006, 'no handshake in time'));
  }

  #receive(frame) {
    const message = parse(frame);
    if (typeof message?.event !== 'string') return log('ignored', frame);
    log('received', message);
    if (typeof message.data === 'string') message.data = parse(message.data) ?? message.data;
    const { event, data } = message;

    if (this.state !== 'connected') {
      if (event === 'pusher:error') this.#closed(data?.code, data?.message);
      if (event !== 'pusher:connection_established') return;
      this.socket_id = data?.socket_id;
      this.#activity = Math.min(data?.activity_timeout * 1000 || ACTIVITY_MS, ACTIVITY_MS);
      this.#failures = 0;
      this.#ping();
      this.#become('connected');
      return;
    }
    this.#ping(); // any message shows that the server is there
    if (event === 'pusher:ping') this.send('pusher:pong', {});
    if (event === 'pusher:error') this.emit('error', { type: 'PusherError', data });
    this.emit('message', message);
  }

  // Asks whether the server is still there, once it has been silent for long.
  #ping() {
    this.#after(this.#activity, () => {
      this.send('pusher:ping', {});
      this.#after(PONG_MS, () => this.#closed(1006, 'no pong in time'));
    });
  }

  #closed(code, message) {
    this.#drop();
    if (code !== 1000 && code !== 1001) {
      this.emit('error', { type: 'WebSocketError', error: { type: 'PusherError', data: { code, message } } });
    }
    if ((code >= 4000 && code < 4100) || code >= 4300) return this.#become('disconnected');
    if (this.state === 'connected') this.#become('connecting');
    this.#after(this.#delay(code), () => this.#open());
  }

  // 42xx: come back at once, though never in a tight loop. Otherwise after a second,
  // and longer while attempts fail; spread, as all pages lose a server together.
  #delay(code) {
    if (code >= 4200 && performance.now() - this.#opened > RETRY_MS) return 0;
    return Math.min(RETRY_MS * 2 ** this.#failures++, RETRY_MAX_MS) * (1 + Math.random() / 4);
  }

  // The close of a dead connection may take minutes to be reported: don't wait for it.
  #drop() {
    clearTimeout(this.#timer);
    if (!this.#socket) return;
    this.#socket.onmessage = this.#socket.onclose = null;
    this.#socket.close();
    this.#socket = undefined;
  }

  #become(current) {
    const previous = this.state;
    if (current === previous) return;
    this.state = current;
    clearTimeout(this.#unavailable);
    if (current === 'connecting') this.#unavailable = setTimeout(() => this.#become('unavailable'), UNAVAILABLE_MS);
    log('state', `${previous} -> ${current}`);
    this.emit('state_change', { previous, current });
  }

  #after(ms, action) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(action, ms);
  }
}

// As in pusher-js, a page that came by TLS never connects without.
function address(key, { cluster, wsHost = `ws-${cluster}.pusher.com`, wsPort = 80, wssPort = 443, wsPath = '', forceTLS = true }) {
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
