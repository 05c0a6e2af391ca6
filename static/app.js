// A click asks this site's server to trigger an event. Pusher, or another Channels server, sends the event over a
// WebSocket to every open page. Each page shows it in an alert.
//
// This file contains the essential Pusher code. Each other file has one task: connection.js loads the
// Channels client (pusher-js, or its fallback channels.js) and shows the state of its connection, clicks.js
// says why a click failed, alerts.js shows one alert at a time, and kaomoji.js moves the kaomoji.

import { takeTurn } from './alerts.js';
import { noteEvent, report } from './clicks.js';
import { connectionOptions, loadPusher, watchConnection } from './connection.js';
import { crash, flyBack, takeOff } from './kaomoji.js';

const page = document.body.dataset; // from templates/index.html
const buttons = document.querySelectorAll('.push');
let pusher; // undefined until the client has loaded, which can take a few seconds

for (const button of buttons) button.addEventListener('click', () => click(button));

// To receive events, a page needs the app's key, which is public.
const Pusher = await loadPusher();
pusher = new Pusher(page.key, connectionOptions());
const channel = pusher.subscribe(page.channel);
for (const button of buttons) channel.bind(button.dataset.event, (data) => receive(button, data));
watchConnection(pusher, channel);

// Triggering an event requires the app's secret. A page must not contain it, because anyone
// could read it there, so the page asks its server (main.go) to trigger the event.
async function click(button) {
  takeOff(button);
  const request = fetch(button.dataset.post, { method: 'POST', signal: AbortSignal.timeout(15_000) });
  const succeeded = await report(request, button.dataset.event);
  if (!succeeded) flyBack(button);
}

function receive(button, data) {
  if (typeof data?.message !== 'string') return console.warn('Ignored an event without a message:', data);
  noteEvent(button.dataset.event);
  takeTurn(() => crash(button), () => {
    alert(data.message);
    flyBack(button);
  });
}
