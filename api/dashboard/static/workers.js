// Keeps the page of workers fresh: they report every few seconds, and no stream tells of it.
import { act, showLive, showTimes } from "./live.js";

const EVERY_MS = 5000;
const list = document.getElementById("workers");
let shown = list.innerHTML;

showTimes(list);
showLive("on", "live");
list.addEventListener("submit", async (event) => {
  await act(event);
  await look();
});
setInterval(look, EVERY_MS);

async function look() {
  if (document.hidden) return;
  const answer = await fetch(location.href).catch(() => null);
  if (answer === null || !answer.ok) {
    showLive("off", "connecting…");
    return;
  }
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const fresh = page.getElementById("workers");
  if (fresh === null) {
    location.reload(); // logged out: the form
    return;
  }
  showLive("on", "live");
  if (fresh.innerHTML === shown) return;
  shown = fresh.innerHTML;
  const focused = list.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
  showTimes(fresh);
  list.replaceChildren(...document.adoptNode(fresh).childNodes);
  if (focused === null) return;
  const again = [...list.querySelectorAll("[aria-label]")].find((one) => one.getAttribute("aria-label") === focused);
  (again || document.getElementById("main")).focus();
}
