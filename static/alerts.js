// Shows alerts one at a time, and writes how many events there were for people who saw no alert.

const MAX_WAITING = 10; // how many alerts may wait to be opened

const trace = document.getElementById('trace');
let lastTurn = Promise.resolve();
let waiting = 0;
let events = 0;
let skipped = 0; // events without an alert

// takeTurn calls the async function prepare and then show, which opens an alert, after all earlier
// ones. If MAX_WAITING alerts wait already, takeTurn only counts the event.
export function takeTurn(prepare, show) {
  events++;
  if (waiting < MAX_WAITING) {
    waiting++;
    lastTurn = lastTurn.then(prepare).then(() => { waiting--; show(); }).catch(reportError).then(nextTask);
  } else {
    skipped++;
  }
  trace.textContent = `Crashes: ${events}, the last at ${new Date().toLocaleTimeString()}.`;
  if (skipped) trace.textContent += ` ${skipped} had no alert, because too many came at once.`;
}

// nextTask lets the page handle the events that arrived during an alert, without a timer, which a hidden page slows.
function nextTask() {
  const { port1, port2 } = new MessageChannel();
  port2.postMessage('');
  return new Promise((resolve) => { port1.onmessage = resolve; });
}
