// Triggers events with the npm package pusher, receives them with pusher-js, and compares them.
// Then sends requests that the server must reject. PUSHER_URL is the server's URL.
const assert = require('node:assert');
const PusherServer = require('pusher');
const PusherClient = require('pusher-js');

const { hostname: host, port, username: key, password: secret, pathname } = new URL(process.env.PUSHER_URL);
const appId = pathname.split('/')[2];

const api = (over) => new PusherServer({ appId, key, secret, host, port, useTLS: false, ...over });
const connect = () => new PusherClient(key, { cluster: 'local', wsHost: host, wsPort: port, forceTLS: false, enabledTransports: ['ws'] });

async function subscribe(pusher, name, received) {
  const channel = pusher.subscribe(name);
  await new Promise((resolve) => channel.bind('pusher:subscription_succeeded', resolve));
  channel.bind_global((event, data) => event.startsWith('pusher:') || received.push([name, event, data]));
}
async function until(condition) {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 5));
}
async function rejected(status, promise) {
  await assert.rejects(promise, (error) => error.status === status || assert.fail(`${error.status} ${error.body}`));
}

(async () => {
  const one = connect(), two = connect(), received1 = [], received2 = [];
  await subscribe(one, 'a', received1);
  await subscribe(two, 'a', received2);
  await subscribe(two, 'b', received2);
  const server = api();

  await server.trigger('a', 'single', { n: 1 });
  await server.trigger(['a', 'b'], 'both', '柱');
  const batch = Array.from({ length: 10 }, (_, i) => ({ channel: 'a', name: 'batch', data: i }));
  await server.triggerBatch(batch);
  await server.trigger('a', 'except', 'x', { socket_id: one.connection.socket_id });
  await server.trigger('a', 'end', 'x');
  const ended = (received) => received.some(([, event]) => event === 'end');
  await until(() => ended(received1) && ended(received2));

  const common = [['a', 'single', { n: 1 }], ['a', 'both', '柱']];
  const batched = Array.from({ length: 10 }, (_, i) => ['a', 'batch', i]);
  assert.deepStrictEqual(received1, [...common, ...batched, ['a', 'end', 'x']]);
  assert.deepStrictEqual(received2, [...common, ['b', 'both', '柱'], ...batched, ['a', 'except', 'x'], ['a', 'end', 'x']]);

  await rejected(401, api({ secret: 'wrong' }).trigger('a', 'no', 'x'));
  await rejected(400, api({ key: 'wrong' }).trigger('a', 'no', 'x'));
  await rejected(404, api({ appId: 'wrong' }).trigger('a', 'no', 'x'));
  for (const minutes of [-11, 11]) {
    const now = Date.now;
    Date.now = () => now() + minutes * 60_000;
    await rejected(401, server.trigger('a', 'no', 'x')).finally(() => { Date.now = now; });
  }
  const body = JSON.stringify({ name: 'no', channels: ['a'], data: 'x' });
  const query = server.createSignedQueryString({ method: 'POST', path: `${pathname}/events`, body, params: {} });
  const send = (body) => fetch(`http://${host}:${port}${pathname}/events?${query}`, { method: 'POST', body });
  assert.strictEqual((await send(body.replace('"x"', '"y"'))).status, 401);
  assert.strictEqual(received1.length, 13);
  assert.strictEqual((await send(body)).status, 200); // so only the change caused the 401
  console.log('all received');
  process.exit(0);
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
