// Moves the kaomoji of a button. Its phases, which style.css animates, are "ready" on the button, "flying"
// toward the pillar, and "hit". Without a phase, the kaomoji is on the button, or flies back to it.

const CRASH_MS = 100; // how long a crash is visible before its alert, which stops all animation
const STAY_MS = 1_000; // how long it stays visible after its alert

const timers = new Map(); // by button: the timer that ends a crash

export function takeOff(button) {
  setPhase(button, 'ready');
  setPhase(button, 'flying');
}

// crash makes the kaomoji hit the pillar. It resolves once the crash has been visible or, in a hidden page, at once.
export async function crash(button) {
  if (button.dataset.phase !== 'flying') setPhase(button, 'ready');
  setPhase(button, 'hit');
  if (!document.hidden) await new Promise((resolve) => {
    setTimeout(resolve, CRASH_MS);
    document.addEventListener('visibilitychange', resolve, { signal: AbortSignal.timeout(CRASH_MS) });
  });
}

// flyBack returns the kaomoji to its button; after a crash, with a delay.
export function flyBack(button) {
  const delay = button.dataset.phase === 'hit' ? STAY_MS : 0;
  clearTimeout(timers.get(button));
  timers.set(button, setTimeout(() => delete button.dataset.phase, delay));
}

function setPhase(button, phase) {
  clearTimeout(timers.get(button));
  button.dataset.phase = phase;
  button.getBoundingClientRect(); // forces a layout, so that the next transition starts from here
}
