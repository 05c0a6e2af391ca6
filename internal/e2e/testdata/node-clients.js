// Triggers events with the npm package pusher, receives them with pusher-js, and compares them. PUSHER_URL is the
// server's URL.
const assert = require('node:assert');
const PusherServer = require('pusher');
const PusherClient = require('pusher-js');

const { hostname: host, port, username: key, password: secret, pathname } = new URL(process.env.PUSHER_URL);
const server = new PusherServer({ appId: pathname.split('/')[2], key, secret, host, port, useTLS: false });

async function subscribe(received, ...names) {
  const options = { cluster: 'local', wsHost: host, wsPort: port, forceTLS: false, enabledTransports: ['ws'] };
  const pusher = new PusherClient(key, options);
  for (const name of names) {
    const channel = pusher.subscribe(name);
    await new Promise((resolve) => channel.bind('pusher:subscription_succeeded', resolve));
    channel.bind_global((event, data) => event.startsWith('pusher:') || received.push([name, event, data]));
  }
  return pusher;
}

(async () => {
  const received1 = [], received2 = [];
  const one = await subscribe(received1, 'a');
  await subscribe(received2, 'a', 'b');
  await server.trigger('a', 'single', { n: 1 });
  await server.trigger(['a', 'b'], 'both', '柱');
  await server.triggerBatch(Array.from({ length: 10 }, (_, i) => ({ channel: 'a', name: 'batch', data: i })));
  await server.trigger('a', 'except', 'x', { socket_id: one.connection.socket_id });
  await server.trigger('a', 'end', 'x');
  const ended = (received) => received.at(-1)?.[1] === 'end';
  while (!ended(received1) || !ended(received2)) await new Promise((resolve) => setTimeout(resolve, 5));

  const common = [['a', 'single', { n: 1 }], ['a', 'both', '柱']];
  const batch = Array.from({ length: 10 }, (_, i) => ['a', 'batch', i]);
  const end = ['a', 'end', 'x'];
  assert.deepStrictEqual(received1, [...common, ...batch, end]);
  assert.deepStrictEqual(received2, [...common, ['b', 'both', '柱'], ...batch, ['a', 'except', 'x'], end]);
  console.log('all received');
  process.exit(0);
})().catch((error) => { console.error(error); process.exit(1); });
