// A fallback for when pusher-js can't be loaded. It implements the part of the pusher-js API that
// the page uses, for public channels, over a WebSocket (Channels protocol 7).

const ATTEMPT_MS = 15_000; // how long an attempt to connect may take
const RETRY_MS = 1_000; // the wait before the first attempt to reconnect; each failure doubles it
const RETRY_MAX_MS = 8_000; // the longest wait, to which a random part is added so that pages don't reconnect together

const log = (...what) => Pusher.logToConsole && console.log('channels.js', ...what);

class Emitter extends EventTarget {
  bind = (event, callback) => this.addEventListener(event, ({ detail }) => callback(detail));
  emit = (event, detail) => this.dispatchEvent(new CustomEvent(event, { detail }));
}

export class Pusher {
  static logToConsole = false;
  connection = Object.assign(new Emitter(), { state: 'initialized', socket_id: undefined });
  #channels = new Map(); // by name
  #url;
  #options;
  #socket;
  #timer; // runs the next step: opens a socket, gives it up, or sends a ping
  #since; // the time of the last change of state
  #failures = 0; // attempts since the last connection

  constructor(key, options) {
    const { wsHost, wsPath = '', wsPort, wssPort = 443 } = options;
    const tls = options.forceTLS !== false || location.protocol === 'https:'; // like pusher-js
    const origin = tls ? `wss://${wsHost}:${wssPort}` : `ws://${wsHost}:${wsPort}`;
    this.#url = `${origin}${wsPath}/app/${encodeURIComponent(key)}?protocol=7&client=js&version=8.6.0&flash=false`;
    this.#options = { unavailableTimeout: 10_000, ...options };
    this.connect();
  }

  subscribe(name) {
    if (!this.#channels.has(name)) this.#channels.set(name, Object.assign(new Emitter(), { name }));
    if (this.connection.state === 'connected') this.send_event('pusher:subscribe', { channel: name });
    return this.#channels.get(name);
  }

  connect() {
    if (!globalThis.WebSocket) return this.#setState('failed');
    this.#setState('connecting');
    this.#open();
  }

  disconnect() {
    this.#drop();
    this.#setState('disconnected');
  }

  send_event(event, data) {
    log('sent', { event, data });
    this.#socket.send(JSON.stringify({ event, data }));
  }

  #open() {
    this.#socket = new WebSocket(this.#url);
    this.#socket.onmessage = ({ data }) => this.#receive(parse(data));
    this.#socket.onclose = ({ code, reason }) => this.#handleClose(code, reason);
    this.#schedule(ATTEMPT_MS, () => this.#handleClose(1006, 'no response in time'));
  }

  #receive(message) {
    log('received', message);
    const { event, channel, data } = { ...message, data: parse(message?.data) };
    if (event === 'pusher:connection_established') {
      this.#failures = 0;
      this.#options.activityTimeout = Math.min(this.#options.activityTimeout, data.activity_timeout * 1000 || Infinity);
      this.connection.socket_id = data.socket_id;
      this.#setState('connected');
      for (const name of this.#channels.keys()) this.subscribe(name);
    } else if (this.connection.state !== 'connected') {
      if (event === 'pusher:error') this.#handleClose(data?.code, data?.message);
      return;
    }
    // Any message shows that the connection is alive. If none arrives for a while, send a ping.
    this.#schedule(this.#options.activityTimeout, () => {
      this.send_event('pusher:ping', {});
      this.#schedule(this.#options.pongTimeout, () => this.#handleClose(1006, 'no pong in time'));
    });
    if (event === 'pusher:ping') this.send_event('pusher:pong', {});
    if (event === 'pusher:error') this.connection.emit('error', { data });
    this.connection.emit('message', { event, channel, data });
    this.#channels.get(channel)?.emit(event.replace('pusher_internal:', 'pusher:'), data);
  }

  #handleClose(code, message) {
    this.#drop();
    this.connection.emit('error', { error: { data: { code, message } } });
    if ((code >= 4000 && code < 4100) || code >= 4300) return this.#setState('disconnected');
    const connected = this.connection.state === 'connected';
    const age = performance.now() - this.#since;
    const wait = Math.min(RETRY_MS * 2 ** this.#failures++, RETRY_MAX_MS) * (1 + Math.random() / 4);
    const now = code >= 4200 && connected && age > RETRY_MS; // as the server asked, unless the connection was short
    this.#schedule(now ? 0 : wait, () => this.#open());
    if (connected || code >= 4100) this.#setState('connecting');
    else if (age > this.#options.unavailableTimeout) this.#setState('unavailable');
  }

  // #drop closes the socket without waiting for its close event, which arrives late if the connection is dead.
  #drop() {
    clearTimeout(this.#timer);
    if (this.#socket) Object.assign(this.#socket, { onmessage: null, onclose: null }).close();
  }

  #setState(current) {
    const { state: previous } = this.connection;
    this.connection.state = current;
    this.#since = performance.now();
    if (current === previous) return;
    log('state', `${previous} -> ${current}`);
    this.connection.emit('state_change', { previous, current });
  }

  #schedule(ms, step) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(step, ms);
  }
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text; // not JSON
  }
}
