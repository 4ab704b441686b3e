// The page: the live stream, what is said when it breaks, and which view is shown.

import { api, byId, clock, say } from "./dom.js";
import { route } from "./job.js";
import { begin, knowFunctions } from "./jobs.js";
import { show } from "./overview.js";

const SILENCE_MS = 6000;
const AGAIN_MS = 1500;

let stream = null;
let silence;
let last = null;

function chosen() {
  return document.querySelector("input[name=window]:checked").value;
}

function open() {
  close();
  stream = new EventSource(`/events?window=${chosen()}`);
  stream.addEventListener("picture", ({ data }) => take(JSON.parse(data)));
  stream.addEventListener("trouble", ({ data }) => {
    watch();
    lost(JSON.parse(data)); // which server does not answer
  });
  stream.onerror = () => {
    lost("The connection to the service is lost.");
    if (stream?.readyState === EventSource.CLOSED) reopen();
  };
  watch();
}

function close() {
  clearTimeout(silence);
  stream?.close();
  stream = null;
}

/** Open the stream anew where nothing comes: a connection may be dead without anybody saying so. */
function watch() {
  clearTimeout(silence);
  silence = setTimeout(() => {
    lost("The service has gone silent.");
    reopen();
  }, SILENCE_MS);
}

function reopen() {
  close();
  silence = setTimeout(open, AGAIN_MS);
  api("/picture").catch(() => {}); // where a sign-in is needed, this leads to it
}

function take(picture) {
  watch();
  last = picture.at;
  byId("link").dataset.state = "live";
  say("link-words", "Live"); // its clock stands beside it, so that nobody has it read out each second
  say("link-at", clock(picture.at));
  byId("notice").hidden = true;
  if (picture.window !== chosen()) return; // of the window before
  if (!byId("overview").hidden) show(picture);
  knowFunctions(picture.tallies.functions.map((one) => one.function));
}

function lost(words) {
  byId("link").dataset.state = "lost";
  say("link-words", "Trying again");
  say("link-at", "");
  const kept = last ? ` The figures are from ${clock(last)}.` : "";
  say("notice", `${words}${kept} The page keeps trying to connect.`);
  byId("notice").hidden = false;
}

byId("windows").addEventListener("change", open);
addEventListener("hashchange", route);
document.addEventListener("visibilitychange", () => (document.hidden ? close() : open())); // nobody looks: nothing is gathered
route();
begin();
open();
