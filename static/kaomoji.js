// Moves the kaomoji, with style.css, and alerts its crashes one after another.

const CRASH_MS = 100; // from an event to its alert, in a visible page
const REST_MS = 300; // between two alerts, so that the page can be used
const STAY_MS = 1_000; // of a crash, after its alert
const BACK_MS = 600; // for the way back to the button
const EVENT_MS = 4_000; // for the event of an accepted click to arrive
const MAX_WAITING = 10; // crashes whose alert waits for another

const sky = document.getElementById('sky');
const trace = document.getElementById('trace');

const lanes = [undefined, undefined, undefined]; // the flights on display
const pending = []; // flights of clicks whose event has not arrived, oldest first
const waiting = []; // crashes whose alert is still to come
let alerting = false;
let alerts = 0;
let crashes = 0;
let skipped = 0; // crashes that were not alerted

// takeOff starts the flight of a click.
export function takeOff(button) {
  const flight = newFlight(button);
  if (lanes.includes(undefined)) display(flight);
  move(flight, 'flying');
  pending.push(flight);
  return flight;
}

// turnBack ends the flight of a click that failed.
export function turnBack(flight) {
  forget(flight);
  move(flight, 'back');
  setTimeout(() => remove(flight), BACK_MS);
}

// arrives resolves to whether a flight's event arrives in time. The time during which an
// alert stops the page does not count.
export async function arrives(flight) {
  let before;
  do {
    before = alerts;
    await pause(EVENT_MS);
  } while (!flight.arrived && alerts !== before);
  return flight.arrived;
}

// crash has the oldest flight of a button hit the pillar, or one from outside if there is
// none, and then calls showAlert. Crashes that arrive during an alert wait.
export function crash(button, showAlert) {
  const flight = pending.find((flight) => flight.button === button) ?? newFlight();
  flight.arrived = true;
  forget(flight);
  crashes++;
  if (waiting.length < MAX_WAITING) {
    waiting.push({ flight, showAlert });
  } else {
    skipped++;
    remove(flight);
  }
  writeTrace();
  if (!alerting) alertAll();
}

async function alertAll() {
  alerting = true;
  while (waiting.length) {
    const { flight, showAlert } = waiting.shift();
    if (!lanes.includes(flight)) display(flight);
    move(flight, 'hit');
    await pauseIfVisible(CRASH_MS); // an alert stops all motion
    showAlert();
    alerts++;
    setTimeout(() => remove(flight), STAY_MS);
    await nextTask(); // lets events in that arrived during the alert
    await pauseIfVisible(REST_MS);
  }
  alerting = false;
}

// writeTrace leaves the crashes on the page in words, for those who saw no alert.
function writeTrace() {
  trace.textContent = `Crashes: ${crashes}, the last at ${new Date().toLocaleTimeString()}.`;
  if (skipped) trace.textContent += ` Too many at once to alert: ${skipped}.`;
}

function newFlight(button) {
  const flyer = document.createElement('span');
  flyer.className = 'flyer';
  flyer.dataset.phase = button ? 'ready' : 'outside';
  return { button, flyer, arrived: false };
}

// display puts a flight on its button, or outside the scene, in a lane of its own.
function display(flight) {
  const lane = Math.max(lanes.indexOf(undefined), 0);
  lanes[lane] = flight;
  flight.flyer.dataset.lane = lane;
  flight.flyer.style.setProperty('--scene-width', `${sky.offsetWidth}px`);
  if (flight.button) flight.flyer.style.setProperty('--button-left', `${flight.button.offsetLeft}px`);
  sky.prepend(flight.flyer);
}

function move(flight, phase) {
  flight.flyer.getBoundingClientRect(); // has the browser notice where the transition starts
  flight.flyer.dataset.phase = phase;
  updateButton(flight.button);
}

function remove(flight) {
  flight.flyer.remove();
  if (lanes.includes(flight)) lanes[lanes.indexOf(flight)] = undefined;
  updateButton(flight.button);
}

function forget(flight) {
  if (pending.includes(flight)) pending.splice(pending.indexOf(flight), 1);
}

// updateButton hides the kaomoji on a button while it is in the air.
function updateButton(button) {
  button?.classList.toggle('away', lanes.some((flight) => flight?.button === button));
}

function pause(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

// pauseIfVisible does not wait in a hidden page, where timers take a second or more.
function pauseIfVisible(ms) {
  return new Promise((resolve) => {
    if (document.hidden) return resolve();
    const timer = setTimeout(end, ms);
    document.addEventListener('visibilitychange', end);
    function end() {
      clearTimeout(timer);
      document.removeEventListener('visibilitychange', end);
      resolve();
    }
  });
}

function nextTask() {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = resolve;
    port2.postMessage('');
  });
}
