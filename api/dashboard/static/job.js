// Keeps the page of one job fresh. The page works without it, only less live.
import { act, focusIn, follow, showLive, showTimes } from "./live.js";

const page = document.querySelector(".job");
const shown = new Map([...page.querySelectorAll("section[id]")].map((part) => [part.id, part.innerHTML]));

showTimes(page);
follow(page.dataset.events, "job", (news, source) => {
  for (const [id, html] of Object.entries(news.sections)) put(id, html);
  if (!news.ended) return;
  source.close();
  showLive("off", "ended");
});
page.addEventListener("submit", (event) => act(event, (made) => location.assign(made)));

// Only what has changed, so that a video plays on.
function put(id, html) {
  const template = document.createElement("template");
  template.innerHTML = html;
  if (template.innerHTML === shown.get(id)) return;
  shown.set(id, template.innerHTML);
  const part = document.getElementById(id);
  const hadFocus = part.contains(document.activeElement);
  showTimes(template.content);
  part.replaceChildren(template.content);
  if (hadFocus) focusIn(part);
}
