// The console: the list of models, and the page of one of them.

import { charts, duration } from "./charts.js";
import { $, el, table } from "./dom.js";
import { ScoreForm } from "./score_form.js";
import { get, isSecured, send } from "./service.js";
import { bodyOf, pathOf, SNIPPETS } from "./snippets.js";
import { defaultText, Num, parse, typeText, write } from "./values.js";

const REFRESH_SECONDS = 15;
const SHOWN = 200;
const STATES = {
  STATE_AVAILABLE: ["good", "available"], STATE_DISCOVERED: ["plain", "not loaded"], STATE_LOADING: ["busy", "loading"],
  STATE_UNLOADING: ["busy", "unloading"], STATE_FAILED: ["bad", "failed"],
};
const base = new URL(".", location.href).href;
const chosenName = () => new URLSearchParams(location.hash.replace("#/", "name=")).get("name") ?? "";
const muted = (...text) => el("p", { class: "muted" }, ...text);

let models = [];
// What is shown of the chosen model: what the service says of it, the selected version, the form, and elements.
let page;
let language = "curl";
let grpc = { port: 0, tls: false };

function report(error) {
  if (!error.problem) throw error;
  const { reason, title, detail, correlation_id: id } = error.problem;
  $("message").textContent = `${reason ?? title}: ${detail}${id ? ` (correlation id ${id})` : ""}`;
  $("message").hidden = false;
}

// The list.

async function loadModels() {
  const found = [];
  let next = "";
  do {
    const listed = await get(`v1/models?page_size=1000&page_token=${encodeURIComponent(next)}`);
    found.push(...(listed.models ?? []));
    next = listed.nextPageToken;
    models = found;
    showList();
  } while (next);
}

function showList() {
  const words = $("filter").value.toLowerCase().split(/\s+/);
  const found = models.filter((model) => {
    const text = [model.name, model.description, ...Object.entries(model.tags ?? {}).flat()].join(" ").toLowerCase();
    return words.every((word) => text.includes(word));
  });
  const all = `${found.length} of ${models.length} models`;
  $("count").textContent = found.length > SHOWN ? `${all}; the first ${SHOWN} are listed` : all;
  $("list").replaceChildren(...found.slice(0, SHOWN).map((model) => {
    const version = model.versions?.find((one) => one.version === model.defaultVersion);
    const link = { href: `#/${encodeURIComponent(model.name)}`, "aria-current": model.name === chosenName() && "page" };
    return el("li", {}, el("a", link, el("span", { class: "name" }, model.name), " ",
      version ? badge(version) : el("span", { class: "badge bad" }, "no default version")));
  }));
}

function badge({ state }) {
  const [kind, text] = STATES[state] ?? ["plain", state];
  return el("span", { class: `badge ${kind}` }, text);
}

// A model.

async function showModel() {
  const name = chosenName();
  document.body.classList.toggle("chosen", name !== "");
  document.title = name ? `${name} – prinz-enricher` : "prinz-enricher";
  $("message").hidden = true;
  showList();
  if (page?.model.name !== name) {
    page = undefined;
    $("model").replaceChildren(muted(name ? "Loading…" : "Choose a model."));
  }
  if (!name) return;
  try {
    const model = await get(`v1/models/${encodeURIComponent(name)}?view=full`);
    if (name !== chosenName()) return;
    page ??= newPage();
    page.model = model;
    models = models.map((one) => (one.name === name ? model : one));
    showList();
    showHead();
    showVersions();
    showSelected();
    await showActivity();
  } catch (error) {
    if (!page) $("model").replaceChildren();
    report(error);
  }
}

function newPage() {
  const [head, versions, activity, signature, score] = Array.from({ length: 5 }, () => el("div"));
  const section = (title, content) => el("section", {}, el("h2", {}, title), content);
  $("model").replaceChildren(head, section("Versions", versions), section("Activity", activity),
    section("Score a row", score), section("Signature", signature));
  return { chosen: {}, head, versions, activity, signature, score };
}

function showHead() {
  const { name, description = "", aliases = {}, versions = [], defaultVersion } = page.model;
  const options = [
    [{}, defaultVersion ? `default, now version ${defaultVersion}` : "default, which there is none of"],
    ...Object.entries(aliases).map(([alias, now]) => [{ alias }, `alias ${alias}, now version ${now}`]),
    ...versions.map(({ version }) => [{ version }, `version ${version}`]),
  ];
  const same = options.findIndex(([one]) => JSON.stringify(one) === JSON.stringify(page.chosen));
  const select = el("select", { id: "chosen" }, options.map(([, text], place) =>
    el("option", { value: String(place), selected: place === Math.max(same, 0) }, text)));
  page.chosen = options[select.value][0];
  select.onchange = () => {
    page.chosen = options[select.value][0];
    showSelected();
    showActivity().catch(report);
  };
  page.head.replaceChildren(el("p", { class: "back" }, el("a", { href: "#/" }, "← All models")), el("h1", {}, name),
    el("p", {}, description), tags(page.model.tags),
    el("p", { class: "selector" }, el("label", { for: "chosen" }, "Version or alias"), select));
}

function selectedNumber() {
  const { version, alias } = page.chosen;
  return version ?? (alias ? page.model.aliases[alias] : page.model.defaultVersion);
}

function tags(values = {}) {
  const entries = Object.entries(values);
  return entries.length ? el("ul", { class: "tags", "aria-label": "Tags" },
    entries.map(([key, value]) => el("li", {}, el("span", { class: "muted" }, key), ` ${value}`))) : "";
}

function showVersions() {
  const { versions = [], defaultVersion } = page.model;
  const rows = versions.map((one) => [
    one.version + (one.version === defaultVersion ? " (default)" : ""),
    (one.aliases ?? []).join(", "),
    [badge(one), el("p", { class: one.state === "STATE_FAILED" ? "fault" : "muted" }, one.stateMessage ?? "")],
    one.route === "ROUTE_REMOTE" ? "a remote endpoint" : "a local worker",
    one.batching === "BATCHING_ON" ? "on" : "off",
    (one.flavors ?? []).join(", "),
    one.createTime?.slice(0, 16).replace("T", " ") ?? "",
    [one.description ?? "", tags(one.tags)],
  ]);
  const columns = ["Version", "Aliases", "State", "Scored by", "Batching", "Flavors", "Registered (UTC)", "Notes"];
  const left = page.versions.firstChild?.scrollLeft ?? 0;
  page.versions.replaceChildren(table("Versions", columns, rows));
  page.versions.firstChild.scrollLeft = left;
}

function showSelected() {
  const version = page.model.versions?.find((one) => one.version === selectedNumber());
  const signature = version?.signature;
  if (!signature) {
    page.signature.replaceChildren(muted(version?.stateMessage || "There is no such version."));
    page.score.replaceChildren(muted("Without a signature there is no form."));
    page.form = undefined;
    return;
  }
  const part = (title, third, all = []) => el("div", {}, el("h3", {}, title),
    all.length ? table(title, ["Name", "Type", third, "Description"], all.map(row)) : muted("none"));
  const last = ({ defaultValue: preset, required }) => preset ? defaultText(preset) : required ? "yes" : "no";
  const row = (one) => [one.name, el("code", {}, typeText(one.type, one.shape)), last(one), one.description ?? ""];
  page.signature.replaceChildren(el("div", { class: "pair" }, part("Inputs", "Required", signature.inputs),
    part("Outputs", "Required", signature.outputs), part("Parameters", "Default", signature.params)));
  if (!page.form || page.digest !== signature.digest) buildForm(signature);
  showSnippet();
}

// Scores.

function buildForm(signature) {
  page.digest = signature.digest;
  page.form = new ScoreForm(signature, showSnippet);
  page.form.node.onsubmit = (event) => {
    event.preventDefault();
    score().catch(report);
  };
  page.answer = el("div", { class: "answer", role: "status" }, muted("The answer comes here."));
  page.snippet = el("code");
  const [copy, copied] = [el("button", { type: "button", class: "quiet" }, "Copy"), el("span", { role: "status" })];
  copy.onclick = () => {
    getSelection().selectAllChildren(page.snippet);
    // Without TLS there is no other clipboard.
    copied.textContent = document.execCommand("copy") ? "Copied." : "It is selected.";
  };
  const choices = Object.keys(SNIPPETS).map((name, place) => {
    const id = `snippet-${place}`;
    const radio = el("input", { type: "radio", name: "snippet", id, checked: name === language });
    radio.onchange = () => {
      language = name;
      copied.textContent = "";
      showSnippet();
    };
    return [radio, el("label", { for: id }, name)];
  });
  page.score.replaceChildren(
    el("div", { class: "pair" }, page.form.node, page.answer), el("h3", { id: "snippets" }, "The same call elsewhere"),
    el("div", { class: "choices", role: "radiogroup", "aria-labelledby": "snippets" }, choices),
    el("pre", { tabindex: "0", "aria-label": "Snippet" }, page.snippet), el("p", { class: "buttons" }, copy, copied));
}

function callOf(read) {
  const where = { base, grpc: { ...grpc, host: location.hostname } };
  return { model: page.model.name, ...page.chosen, ...read, ...where, secured: isSecured() };
}

function showSnippet() {
  const read = page.form?.read();
  if (page.form) page.snippet.textContent = read ? SNIPPETS[language](callOf(read)) : "A field can't be read yet.";
}

async function score() {
  const { form, answer } = page;
  form.show(undefined);
  const read = form.read(true);
  if (!read) return;
  answer.replaceChildren(muted("Scoring…"));
  const request = { method: "POST", headers: { "Content-Type": "application/json" }, body: bodyOf(read) };
  try {
    const { text, seconds } = await send(pathOf(callOf(read)), request);
    answer.replaceChildren(...answerOf(parse(text), text, seconds));
  } catch (error) {
    if (!error.problem) throw error;
    answer.replaceChildren(muted("There is no score."));
    form.show(error.problem);
  }
  await refresh();
}

function answerOf(content, text, seconds) {
  const timing = content.get("timing");
  const took = (name) => duration(Number.parseFloat(timing.get(name)));
  const plain = (value) => (typeof value === "string" ? value : value instanceof Num ? value.text : write(value));
  const rows = [...content.get("rows")[0]].map(([name, value]) => [name, el("code", {}, plain(value))]);
  return [
    el("p", {}, `Version ${content.get("model").get("version")}`), table("Scores", ["Output", "Value"], rows),
    muted(`${took("total")} in the service: ${took("queue")} waiting, ${took("compute")} in the model, `,
      `in a batch of ${timing.get("batchRows").text}. ${duration(seconds)} as seen from here.`),
    el("details", {}, el("summary", {}, "As it was sent"), el("pre", { tabindex: "0", "aria-label": "Answer" }, text)),
  ];
}

// What changes by itself.

async function showActivity() {
  const shown = page;
  const { version = page.model.aliases?.[page.chosen.alias] } = page.chosen;
  const query = new URLSearchParams({ model: page.model.name, ...(version && { version }) });
  const found = await get(`console/activity?${query}`);
  if (shown !== page) return;
  grpc = found.grpc;
  const isOpen = page.activity.querySelector("details")?.open;
  page.activity.replaceChildren(...charts(found.intervals));
  page.activity.querySelector("details")?.toggleAttribute("open", isOpen ?? false);
  showSnippet();
}

async function refresh() {
  if (!page || document.hidden) return;
  const shown = page;
  const { text } = await send(`v1/models/${encodeURIComponent(page.model.name)}`);
  if (shown !== page) return;
  $("message").hidden = true;
  const isSame = text === page.seen;
  page.seen = text;
  await (isSame ? showActivity() : showModel());
}

$("filter").oninput = showList;
$("reload").onclick = () => loadModels().catch(report);
$("skip").onclick = () => $("main").focus();
addEventListener("hashchange", () => showModel().then(() => $("main").focus()));
setInterval(() => refresh().catch(report), REFRESH_SECONDS * 1000);
await Promise.all([loadModels().catch(report), showModel()]);
