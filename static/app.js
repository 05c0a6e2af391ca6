// A click asks this site's server to trigger an event. Pusher, or the embedded
// server, sends the event over a WebSocket to every open page. Each page shows it in an alert.
//
// This file contains the essential Pusher code. connection.js keeps the page connected and
// explains errors; kaomoji.js animates the kaomoji and shows the alerts one at a time.

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

// Triggering an event requires the app's secret. A page must not contain it, because anyone
// could read it there, so the page asks its server (main.go) to trigger the event.
async function click(button) {
  const flight = takeOff(button);
  const request = fetch(button.dataset.post, { method: 'POST', signal: AbortSignal.timeout(15_000) });
  await reportClick(request, flight);
}

function receive(button, data) {
  if (typeof data?.message !== 'string') {
    console.warn('Ignored an event without a message:', data);
    return;
  }
  crash(button, () => alert(data.message));
}
