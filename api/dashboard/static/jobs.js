// Keeps the list of jobs fresh and plays videos in place. The page works without it, only less live.
import { act, focusIn, follow, showTimes } from "./live.js";

const body = document.getElementById("rows");

follow(document.querySelector(".jobs").dataset.events, "rows", (news) => {
  for (const row of news.rows) putRow(row.id, row.html);
  for (const id of news.gone) takeRow(id);
  for (const [status, count] of Object.entries(news.counts)) {
    document.querySelector(`[data-count="${status}"]`).textContent = count;
  }
  document.getElementById("empty").hidden = body.children.length > 0;
});
body.addEventListener("click", play);
body.addEventListener("submit", act);
document.querySelector(".filters").addEventListener("change", (event) => {
  if (event.target.type === "checkbox") event.currentTarget.requestSubmit();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") stopPlaying();
});
showTimes(body);

function putRow(id, html) {
  const template = document.createElement("template");
  template.innerHTML = html;
  const fresh = template.content.querySelector("tr");
  const old = document.getElementById(id);
  showTimes(fresh);
  if (!old) {
    const after = [...body.children].find((row) => row.id && row.id < id);
    body.insertBefore(fresh, after || null);
  } else if (old.outerHTML !== fresh.outerHTML && !isPlaying(old)) {
    const hadFocus = old.contains(document.activeElement);
    old.replaceWith(fresh);
    if (hadFocus) focusIn(fresh);
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
