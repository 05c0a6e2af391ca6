// A click asks this site's server to trigger an event. Pusher delivers the event over a
// WebSocket to every open page, this one included, and each page alerts its message.
//
// This file is the whole story. connection.js keeps the page connected and says in words
// what goes wrong; kaomoji.js moves the kaomoji and shows one alert after another.

import { connectionOptions, loadPusher, reportClick, watchConnection } from './connection.js';
import { crash, takeOff } from './kaomoji.js';

const page = document.body.dataset; // from templates/index.html
const buttons = document.querySelectorAll('.push');

for (const button of buttons) button.addEventListener('click', () => click(button));

// To receive events, a page needs the app's key, which is public.
const Pusher = await loadPusher();
const pusher = new Pusher(page.key, connectionOptions());
const channel = pusher.subscribe(page.channel);
for (const button of buttons) channel.bind(button.dataset.event, (data) => receive(button, data));
watchConnection(pusher, channel);

// To trigger events takes the app's secret, which no page may contain: everybody could
// read it there. So the page asks its server, in main.go.
async function click(button) {
  const flight = takeOff(button);
  const request = fetch(button.dataset.post, { method: 'POST', signal: AbortSignal.timeout(15_000) });
  await reportClick(request, flight);
}

function receive(button, data) {
  if (typeof data?.message !== 'string') {
    console.warn('An event without a message to alert:', data);
    return;
  }
  crash(button, () => alert(data.message));
}
