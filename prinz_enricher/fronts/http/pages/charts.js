// Small charts of the last minutes, drawn as SVG.

import { el, svg, table } from "./dom.js";

const WIDTH = 300;
const HEIGHT = 80;
const SECONDS = 600;
const PHASES = { queue: "Queue", compute: "In the model", total: "Total" };

const rate = (value) => (value >= 100 ? value.toFixed(0) : String(Number(value.toPrecision(2))));

/** Seconds as a person reads them. */
export function duration(seconds) {
  if (seconds < 1e-3) return `${(seconds * 1e6).toFixed(0)} µs`;
  return seconds < 1 ? `${Number((seconds * 1e3).toPrecision(3))} ms` : `${Number(seconds.toPrecision(3))} s`;
}

/** Draws what `/console/activity` returns. */
export function charts(intervals) {
  if (!intervals.length) return [el("p", { class: "muted" }, "Figures come every 15 seconds.")];
  const per = (key) => intervals.map((one) => one[key] / one.seconds);
  const of = (phase, share) => intervals.map((one) => one[phase]?.[share] ?? null);
  const calls = [["calls", "a", per("calls")], ["errors", "bad", per("errors")]];
  const drawn = Object.entries(PHASES).map(([key, title]) =>
    chart(title, intervals, duration, [["p50", "a", of(key, "p50")], ["p99", "b", of(key, "p99")]]));
  const shares = Object.keys(PHASES).flatMap((key) => [[key, "p50"], [key, "p99"]]);
  const cell = (one, [key, share]) => (one[key] ? duration(one[key][share]) : "–");
  const rows = intervals.map((one) => [`${Math.round(one.ago)} s ago`, rate(one.calls / one.seconds),
    rate(one.errors / one.seconds), ...shares.map((each) => cell(one, each))]).reverse();
  const columns = ["Interval", "Calls/s", "Errors/s", ...shares.map((one) => one.join(" "))];
  return [
    el("div", { class: "charts" }, chart("Calls per second", intervals, rate, calls), drawn),
    el("details", {}, el("summary", {}, "As a table"), table("Activity of the last ten minutes", columns, rows)),
  ];
}

function chart(title, intervals, format, lines) {
  const all = lines.flatMap(([, , values]) => values).filter((value) => value !== null);
  const most = Math.max(...all, 0);
  const x = (place) => (WIDTH * (1 - intervals[place].ago / Math.max(SECONDS, intervals[0].ago))).toFixed(1);
  const y = (value) => (HEIGHT - 2 - (HEIGHT - 6) * (most ? value / most : 0)).toFixed(1);
  const path = (values) => values.map((value, place) => {
    if (value === null) return "";
    const joined = place > 0 && values[place - 1] !== null;
    // A lone point is a line to itself, which its round ends show.
    return `${joined ? "L" : "M"}${x(place)} ${y(value)}h0`;
  }).join("");
  const now = lines.map(([name, , values]) => `${name} ${values.at(-1) === null ? "–" : format(values.at(-1))}`);
  const label = `${title}, last ten minutes. Now: ${now.join(", ")}. Maximum: ${all.length ? format(most) : "none"}.`;
  const box = { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": label };
  return el("figure", {},
    el("figcaption", {}, title, el("span", { class: "muted" }, all.length ? `max ${format(most)}` : "no calls")),
    svg("svg", box, svg("path", { class: "base", d: `M0 ${HEIGHT - 2}H${WIDTH}` }),
      lines.map(([, kind, values]) => svg("path", { class: `line ${kind}`, d: path(values) }))),
    el("p", { class: "legend" }, lines.map(([, kind], place) => el("span", { class: kind }, now[place]))),
  );
}
