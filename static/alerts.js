// Shows alerts one at a time, and counts the events on the page, for people who missed an alert.

const MAX_WAITING = 10; // how many alerts may wait to be opened

const trace = document.getElementById('trace');
let queue = Promise.resolve(); // resolves when all turns so far have ended
let waiting = 0;
let events = 0;
let skipped = 0; // events without an alert

// After all earlier turns, takeTurn calls the async function prepare and then show, which opens an alert. If
// MAX_WAITING alerts are already waiting, takeTurn only counts the event.
export function takeTurn(prepare, show) {
  events++;
  if (waiting < MAX_WAITING) {
    waiting++;
    queue = queue.then(prepare).catch(reportError).then(() => { waiting--; show(); }).catch(reportError).then(nextTask);
  } else {
    skipped++;
  }
  trace.textContent = `Crashes: ${events}, the last at ${new Date().toLocaleTimeString()}.`;
  if (skipped) trace.textContent += ` ${skipped} had no alert, because too many arrived at once.`;
}

// nextTask lets the page handle events that arrived during an alert. It uses no timer: hidden pages slow timers down.
function nextTask() {
  const { port1, port2 } = new MessageChannel();
  port2.postMessage('');
  return new Promise((resolve) => { port1.onmessage = resolve; });
}
