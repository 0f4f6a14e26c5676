// What every live page needs: a stream of events, buttons that act without leaving, and times as people read them.

const RECONNECT_MS = 5000;
const DAY_S = 86400;
const TIMES_EVERY_MS = 30000;
const ago = new Intl.RelativeTimeFormat(undefined, { numeric: "auto", style: "short" });
const live = document.getElementById("live");
const notice = document.getElementById("notice");

setInterval(() => showTimes(document), TIMES_EVERY_MS);

// Calls `take` with the data of every event of this name. The browser connects again by itself; the stream then begins
// with everything as it is.
export function follow(address, name, take) {
  const source = new EventSource(address);
  source.addEventListener("open", () => showLive("on", "live"));
  source.addEventListener("error", () => {
    showLive("off", "connecting…");
    // an error answer closes it for good, for instance while the database restarts
    if (source.readyState === EventSource.CLOSED) setTimeout(followAgain, RECONNECT_MS, address, name, take);
  });
  source.addEventListener(name, (event) => take(JSON.parse(event.data), source));
  window.addEventListener("pagehide", () => source.close());
}

// A stream does not tell which error it was answered with. Whoever is logged out gets the form to log in.
async function followAgain(address, name, take) {
  const asking = new AbortController();
  const answer = await fetch(address, { signal: asking.signal }).catch(() => null);
  asking.abort();
  if (answer !== null && answer.status === 401) location.reload();
  else follow(address, name, take);
}

export function showLive(state, text) {
  live.dataset.state = state;
  live.textContent = text;
}

// For `submit` events of forms with `data-act`. What it changed comes by the stream; what it made, `made` is called with.
export async function act(event, made = () => {}) {
  const form = event.target.closest("[data-act]");
  if (!form) return;
  event.preventDefault();
  // not by `disabled`: a disabled button loses the focus
  if (form.dataset.busy) return;
  form.dataset.busy = "yes";
  notice.hidden = true;
  try {
    const answer = await fetch(form.action, {
      method: "POST",
      headers: { Accept: "application/json" },
      body: new URLSearchParams(new FormData(form)),
    });
    if (!answer.ok) tell((await answer.json()).detail);
    else if (answer.headers.has("Location")) made(answer.headers.get("Location"));
  } catch {
    tell("The service did not answer. Try again.");
  } finally {
    delete form.dataset.busy;
  }
}

// For what replaces something that had the focus.
export function focusIn(part) {
  (part.querySelector(".actions button, .actions a") || document.getElementById("main")).focus();
}

function tell(text) {
  notice.textContent = text;
  notice.hidden = false;
}

// Today's times as "5 min ago", others by the clock and calendar of this place; both by the pointer.
export function showTimes(root) {
  for (const time of root.querySelectorAll("time")) {
    const at = new Date(time.dateTime);
    const local = at.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
    if (!time.title) time.title = `${local} (${time.textContent})`;
    const text = relative((at - Date.now()) / 1000) || local;
    if (time.textContent !== text) time.textContent = text;
  }
}

function relative(seconds) {
  const away = Math.abs(seconds);
  if (away >= DAY_S) return null;
  if (away < 60) return ago.format(Math.trunc(seconds), "second");
  if (away < 3600) return ago.format(Math.trunc(seconds / 60), "minute");
  return ago.format(Math.trunc(seconds / 3600), "hour");
}
