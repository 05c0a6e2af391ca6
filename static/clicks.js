// Shows why a click failed.

const EVENT_MS = 6_000; // how long the event of an accepted click may take; the server reports a failure within 5 s

const page = document.body.dataset;
const problem = document.getElementById('problem');
const pending = new Set(); // clicks without a result yet, oldest first
let clicks = 0;
let reported = 0; // the newest click whose result is shown
let stateChanges = 0; // of the connection
new MutationObserver(() => stateChanges++).observe(document.body, { attributeFilter: ['data-state'] });

// report shows why a click failed, but never replaces the result of a newer click. It resolves to whether
// the click succeeded. Leave out event, the name of the click's event, if this page does not receive it.
export async function report(request, event) {
  const click = { number: ++clicks, event, arrived: false };
  pending.add(click);
  const failure = await explain(request, click);
  pending.delete(click);
  if (failure && click.arrived) noteEvent(event); // that event was another click's
  if (click.number > reported) {
    reported = click.number;
    problem.textContent = failure;
  }
  return !failure;
}

// noteEvent tells report that an event has arrived. The page doesn't know which click caused it, so the
// event counts for the oldest click that waits for one.
export function noteEvent(event) {
  const click = [...pending].find((click) => click.event === event && !click.arrived);
  if (click) click.arrived = true;
}

// explain resolves to the reason why a click failed, or to '' if it succeeded.
async function explain(request, click) {
  const changesBefore = stateChanges;
  try {
    const response = await request;
    const text = await response.text();
    console.log(text);
    if (!response.ok) return explainResponse(response, text);
  } catch (error) {
    console.error(error);
    if (error instanceof TypeError) { // from fetch; a timeout is a DOMException
      return "The server can't be reached. Check that it is running and that this device is online, then click again.";
    }
    if (click.arrived) return ''; // the request timed out while an alert paused the page's scripts
    return 'The server did not respond in time, so the event may or may not have been sent. Try again in a moment.';
  }
  // Wait in parts, because an open alert pauses the page's scripts: the alert uses up only one part.
  for (let part = 0; part < 8 && click.event && !click.arrived; part++) {
    await new Promise((resolve) => setTimeout(resolve, EVENT_MS / 8));
  }
  if (!click.event || click.arrived) return '';
  const accepted = 'The server accepted the click';
  if (page.state === 'connected' && stateChanges === changesBefore) {
    return `${accepted}, but the event has not reached this page. Reload the page. If that doesn't help, the site ` +
      'owner should check that the server and the page use the same Channels app.';
  }
  return page.state === 'connected'
    ? `${accepted} while this page was not connected, so it can't show the alert. Click again.`
    : `${accepted}, but this page is not connected, so it can't show the alert. The status below says why.`;
}

function explainResponse({ url, status, headers }, text) {
  if (status === 404 && headers.has('Content-Security-Policy')) { // from the app; a proxy usually has no such header
    return `The server has no handler for ${new URL(url).pathname}. ` +
      'The site owner should add one in main.go, then restart the app.';
  }
  const plain = headers.get('Content-Type')?.startsWith('text/plain'); // from the app; a proxy usually sends HTML
  return (plain && text.trim().slice(0, 500)) || `The server responded with status ${status}. Try again in a moment.`;
}
