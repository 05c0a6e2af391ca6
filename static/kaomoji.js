// Animates the kaomoji, together with style.css: a click starts a flight, and an event makes the
// kaomoji crash into the pillar. Shows the alerts one at a time; at most MAX_QUEUED of them wait.

const CRASH_MS = 100; // time from an event to its alert, in a visible page
const REST_MS = 300; // time between two alerts, so that the page stays usable
const STAY_MS = 1_000; // how long a crash stays visible after its alert
const BACK_MS = 600; // how long a kaomoji takes to return to its button, as in style.css
const EVENT_MS = 4_000; // how long the event of an accepted click may take to arrive
const MAX_QUEUED = 10; // how many crashes may wait while an alert is open

const sky = document.getElementById('sky');
const trace = document.getElementById('trace');

const lanes = [undefined, undefined, undefined]; // flights that are on display
const pending = []; // flights of clicks whose event has not arrived, oldest first
const alertQueue = []; // crashes whose alert has not been shown yet
let alerting = false;
let crashes = 0;
let skipped = 0; // number of crashes without an alert

// takeOff starts the flight of a click.
export function takeOff(button) {
  const flight = newFlight(button);
  if (lanes.includes(undefined)) display(flight);
  setPhase(flight, 'flying');
  pending.push(flight);
  return flight;
}

// turnBack ends the flight of a click that failed.
export function turnBack(flight) {
  removePending(flight);
  setPhase(flight, 'back');
  setTimeout(() => remove(flight), BACK_MS);
}

// eventArrives waits up to EVENT_MS and resolves to whether the event of a flight has arrived. It
// waits in parts, because an open alert pauses the page's scripts: the alert uses up only one part.
export async function eventArrives(flight) {
  for (let part = 0; part < 8 && !flight.arrived; part++) await pause(EVENT_MS / 8);
  return flight.arrived;
}

// crash makes the oldest flight of a button hit the pillar, then calls showAlert. If the button
// has no flight, a kaomoji comes from outside the scene. While an alert is open, up to MAX_QUEUED
// crashes wait; crash only counts the rest.
export function crash(button, showAlert) {
  const flight = pending.find((flight) => flight.button === button) ?? newFlight();
  flight.arrived = true;
  removePending(flight);
  crashes++;
  if (alertQueue.length < MAX_QUEUED) {
    alertQueue.push({ flight, showAlert });
  } else {
    skipped++;
    remove(flight);
  }
  writeTrace();
  if (!alerting) alertAll();
}

async function alertAll() {
  alerting = true;
  while (alertQueue.length) {
    const { flight, showAlert } = alertQueue.shift();
    if (!lanes.includes(flight)) display(flight);
    setPhase(flight, 'hit');
    await pauseIfVisible(CRASH_MS); // an alert stops all animation, so show the crash first
    showAlert();
    setTimeout(() => remove(flight), STAY_MS);
    await nextTask(); // lets the page handle events that arrived during the alert
    await pauseIfVisible(REST_MS);
  }
  alerting = false;
}

// writeTrace writes the number of crashes on the page, for people who saw no alert.
function writeTrace() {
  trace.textContent = `Crashes: ${crashes}, the last at ${new Date().toLocaleTimeString()}.`;
  if (skipped) trace.textContent += ` ${skipped} had no alert, because too many came at once.`;
}

function newFlight(button) { // without a button, the kaomoji comes from outside the scene
  const flyer = document.createElement('span');
  flyer.className = 'flyer';
  flyer.dataset.phase = button ? 'ready' : 'outside';
  return { button, flyer, arrived: false };
}

// display adds a flight's kaomoji to the sky, in the first free lane, or lane 0 if none is free.
function display(flight) {
  const lane = Math.max(lanes.indexOf(undefined), 0);
  lanes[lane] = flight;
  flight.flyer.dataset.lane = lane;
  flight.flyer.style.setProperty('--scene-width', `${sky.offsetWidth}px`);
  if (flight.button) {
    const { offsetLeft, offsetTop, offsetHeight } = flight.button;
    flight.flyer.style.setProperty('--button-left', `${offsetLeft}px`);
    flight.flyer.style.setProperty('--button-bottom', `${sky.offsetHeight - offsetTop - offsetHeight}px`);
  }
  sky.prepend(flight.flyer);
}

function setPhase(flight, phase) {
  flight.flyer.getBoundingClientRect(); // forces a layout, so that the transition starts from here
  flight.flyer.dataset.phase = phase;
  updateButton(flight.button);
}

function remove(flight) {
  flight.flyer.remove();
  if (lanes.includes(flight)) lanes[lanes.indexOf(flight)] = undefined;
  updateButton(flight.button);
}

function removePending(flight) {
  if (pending.includes(flight)) pending.splice(pending.indexOf(flight), 1);
}

// updateButton hides the kaomoji on a button while it is in the air.
function updateButton(button) {
  button?.classList.toggle('away', lanes.some((flight) => flight?.button === button));
}

function pause(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

// pauseIfVisible waits for ms, but not while the page is hidden, because timers are slow there.
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
