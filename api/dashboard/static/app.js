// Keeps the list of jobs fresh and plays videos in place. The page works without it, only less live.
"use strict";

const RECONNECT_MS = 5000;
const body = document.getElementById("rows");
const live = document.getElementById("live");
const notice = document.getElementById("notice");

follow(document.querySelector(".jobs").dataset.events);
body.addEventListener("click", play);
body.addEventListener("submit", act);
document.querySelector(".filters").addEventListener("change", (event) => {
  if (event.target.type === "checkbox") event.currentTarget.requestSubmit();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") stopPlaying();
});
localTimes(body);

// The browser connects again by itself; the stream then begins with every row as it is.
function follow(address) {
  const source = new EventSource(address);
  source.addEventListener("open", () => showLive("on", "live"));
  source.addEventListener("error", () => {
    showLive("off", "connecting…");
    // an error answer closes it for good, for instance while the database restarts
    if (source.readyState === EventSource.CLOSED) setTimeout(followAgain, RECONNECT_MS, address);
  });
  source.addEventListener("rows", (event) => {
    const news = JSON.parse(event.data);
    for (const row of news.rows) putRow(row.id, row.html);
    for (const id of news.gone) takeRow(id);
    for (const [status, count] of Object.entries(news.counts)) {
      document.querySelector(`[data-count="${status}"]`).textContent = count;
    }
    document.getElementById("empty").hidden = body.children.length > 0;
  });
  window.addEventListener("pagehide", () => source.close());
}

// A stream does not tell which error it was answered with. Whoever is logged out gets the form to log in.
async function followAgain(address) {
  const asking = new AbortController();
  const answer = await fetch(address, { signal: asking.signal }).catch(() => null);
  asking.abort();
  if (answer !== null && answer.status === 401) location.reload();
  else follow(address);
}

function showLive(state, text) {
  live.dataset.state = state;
  live.textContent = text;
}

function putRow(id, html) {
  const template = document.createElement("template");
  template.innerHTML = html;
  const fresh = template.content.querySelector("tr");
  const old = document.getElementById(id);
  localTimes(fresh);
  if (!old) {
    const after = [...body.children].find((row) => row.id && row.id < id);
    body.insertBefore(fresh, after || null);
  } else if (old.outerHTML !== fresh.outerHTML && !isPlaying(old)) {
    const hadFocus = old.contains(document.activeElement);
    old.replaceWith(fresh);
    if (hadFocus) (fresh.querySelector("button, a") || document.getElementById("main")).focus();
  }
}

// It passes the filter no more.
function takeRow(id) {
  const row = document.getElementById(id);
  if (!row || isPlaying(row)) return;
  const hadFocus = row.contains(document.activeElement);
  row.remove();
  if (hadFocus) document.getElementById("main").focus();
}

function isPlaying(row) {
  return row.nextElementSibling !== null && row.nextElementSibling.classList.contains("player");
}

function play(event) {
  const link = event.target.closest("[data-play]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  const row = link.closest("tr");
  const again = isPlaying(row);
  stopPlaying();
  if (again) return;
  const player = document.createElement("tr");
  player.className = "player";
  const cell = player.insertCell();
  cell.colSpan = row.cells.length;
  const video = document.createElement("video");
  video.controls = true;
  video.autoplay = true;
  video.playsInline = true;
  video.src = link.getAttribute("href");
  video.setAttribute("aria-label", link.getAttribute("aria-label"));
  cell.append(video);
  video.addEventListener("loadedmetadata", () => player.scrollIntoView({ block: "nearest" }), { once: true });
  row.after(player);
  link.setAttribute("aria-expanded", "true");
  video.focus();
}

function stopPlaying() {
  const player = body.querySelector(".player");
  if (!player) return;
  const link = player.previousElementSibling.querySelector("[data-play]");
  player.querySelector("video").pause();
  player.remove();
  link.setAttribute("aria-expanded", "false");
  link.focus();
}

// The row changes by the stream once the button's wish is recorded.
async function act(event) {
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
  } catch {
    tell("The service did not answer. Try again.");
  } finally {
    delete form.dataset.busy;
  }
}

function tell(text) {
  notice.textContent = text;
  notice.hidden = false;
}

function localTimes(root) {
  for (const time of root.querySelectorAll("time")) {
    time.title = time.textContent;
    time.textContent = new Date(time.dateTime).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
  }
}
