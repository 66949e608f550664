// Requests to the service, with a token once it asks for one. The token stays in a variable of this module.

import { $ } from "./dom.js";

let token = "";
let asking;

const refusalOf = (problem) => Object.assign(new Error(problem.detail), { problem });
export const isSecured = () => token !== "";

/** Sends a request; returns the text of the answer and the seconds it took; throws an error with its `problem`. */
export async function send(path, options = {}) {
  for (;;) {
    const used = token;
    const headers = { ...options.headers, ...(used && { Authorization: `Bearer ${used}` }) };
    const began = performance.now();
    const answer = await fetch(path, { ...options, headers, cache: "no-store" }).catch(() => undefined);
    const text = await answer?.text().catch(() => undefined);
    if (text === undefined) throw refusalOf({ title: "No answer", detail: "The service can't be reached." });
    if (answer.ok) return { text, seconds: (performance.now() - began) / 1000 };
    const refusal = refusalOf(problemOf(text, answer.status));
    if (answer.status !== 401) throw refusal;
    // Another request may have asked meanwhile.
    if (used === token && !(await (asking ??= askToken(used ? refusal.message : "")))) throw refusal;
  }
}

/** The JSON of an answer without numbers beyond 2^53. */
export const get = async (path) => JSON.parse((await send(path)).text);

function problemOf(text, status) {
  try {
    return JSON.parse(text);
  } catch {
    return { title: `Status ${status}`, detail: "The answer is not one of this service." };
  }
}

/** Asks for a token; returns whether there is another one. */
function askToken(why) {
  const [dialog, input, before] = [$("token-dialog"), $("token"), token];
  $("token-why").textContent = why;
  $("token-form").onsubmit = (event) => {
    event.preventDefault();
    token = input.value.trim() || token;
    dialog.close();
  };
  $("token-cancel").onclick = () => dialog.close();
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.onclose = () => {
      input.value = "";
      asking = undefined;
      resolve(token !== before);
    };
  });
}
