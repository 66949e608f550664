// Elements: whatever a registry or a caller has written becomes text or an attribute, never markup.

/** Makes an element with attributes; those that are false or undefined are left out. */
export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** Makes an element of SVG. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== false && value !== undefined) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((one) => one !== undefined && one !== null && one !== ""));
  return element;
}

export const $ = (id) => document.getElementById(id);

/** Makes a table that scrolls within the page, with a header for each column and each row. */
export function table(caption, columns, rows) {
  const line = (cells) => cells.map((cell, place) => (place ? el("td", {}, cell) : el("th", { scope: "row" }, cell)));
  const body = rows.map((cells) => el("tr", {}, line(cells)));
  const head = el("thead", {}, el("tr", {}, columns.map((column) => el("th", { scope: "col" }, column))));
  const whole = el("table", {}, el("caption", { class: "hidden" }, caption), head, el("tbody", {}, body));
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption }, whole);
}
