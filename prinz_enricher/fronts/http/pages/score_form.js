// The form of one row, made from a signature, with what is wrong at its fields.

import { el } from "./dom.js";
import { defaultText, kindOf, typeText, valueOf } from "./values.js";

const HINTS = {
  integer: "5", long: "5", float: "0.5", double: "0.5", binary: "base64, as AP8=", datetime: "2026-01-31T12:00:00Z",
  list: "[…]", tensor: "[…]", map: '{"key": …}', record: "{…}", any: 'JSON, such as "text" or 5',
};
const MODES = { integer: "numeric", long: "numeric", float: "decimal", double: "decimal" };
const PATH = /^(columns|params)\[("(?:[^"\\]|\\.)*")\](?:\[0\])?(.*)$/s;
let ids = 0;

/** The fields of inputs and parameters; `changed` is called after each change. */
export class ScoreForm {
  constructor(signature, changed) {
    this.isFree = signature.origin === "ORIGIN_MISSING";
    const inputs = this.isFree ? [{ name: "row", type: { any: {} }, required: true }] : signature.inputs ?? [];
    const params = (signature.params ?? []).map((one) => {
      const type = one.shape?.length ? { list: { items: one.type } } : one.type;
      return { ...one, type, isParam: true, preset: defaultText(one.defaultValue) };
    });
    this.fields = [...inputs, ...params].map((one) => new FormField(one));
    const typeOf = (fields) => ({ record: { fields } });
    this.types = { row: this.isFree ? { any: {} } : typeOf(inputs), params: typeOf(params) };
    const group = (title, isParam) => el("fieldset", {}, el("legend", {}, title),
      this.fields.filter((one) => one.isParam === isParam).map((one) => one.node));
    this.faults = el("div", { class: "faults", role: "alert" });
    this.button = el("button", { type: "submit" }, "Score the row");
    this.node = el("form", { novalidate: true, autocomplete: "off" },
      group(this.isFree ? "The row as a JSON object, since the model has no signature" : "Inputs", false),
      params.length ? group("Parameters", true) : "", this.faults, el("p", { class: "buttons" }, this.button));
    this.node.addEventListener("input", changed);
  }

  /** The row, the parameters and their types; undefined where a field can't be read, which it says if `marked`. */
  read(marked = false) {
    const found = { row: new Map(), params: new Map(), types: this.types };
    let isRead = true;
    for (const field of this.fields) {
      try {
        const value = field.value();
        const isRow = this.isFree && !field.isParam;
        if (isRow && !(value instanceof Map)) throw new SyntaxError("it is no object");
        if (isRow) found.row = value;
        else if (value !== undefined) found[field.isParam ? "params" : "row"].set(field.name, value);
      } catch (error) {
        isRead = false;
        if (marked) field.show(`can't be read: ${error.message}`);
      }
    }
    return isRead ? found : undefined;
  }

  /** Shows a problem: faults of fields at them, others below; the first field at fault has the focus. */
  show(problem) {
    for (const field of this.fields) field.show("");
    this.faults.replaceChildren();
    if (!problem) return;
    const others = [];
    for (const { field: path, description } of problem.violations ?? []) {
      const [, kind, quoted, rest] = PATH.exec(path) ?? [];
      const isParam = kind === "params";
      const field = kind && this.fields.find((one) => one.isParam === isParam && one.name === JSON.parse(quoted));
      if (field) field.show(rest ? `${rest} ${description}` : description);
      else others.push(`${path} ${description}`);
    }
    const first = this.fields.find((one) => one.fault.textContent);
    const ids = ["correlation_id", "trace_id"].filter((id) => problem[id]);
    const detail = first && !others.length ? "The fields say what is wrong." : problem.detail;
    if (problem.omitted) others.push(`${problem.omitted} more, which are not listed`);
    this.faults.replaceChildren(el("p", {}, el("strong", {}, problem.reason ?? problem.title), ` ${detail}`),
      el("ul", {}, others.map((one) => el("li", {}, one))),
      el("p", { class: "muted" }, ids.map((id) => `${id.replace("_", " ")} ${problem[id]} `)));
    (first?.input ?? this.button).focus();
  }
}

class FormField {
  constructor({ name, type, required = false, description = "", isParam = false, preset }) {
    Object.assign(this, { name, type, isParam, empty: isParam || required ? undefined : null });
    const id = `field-${++ids}`;
    const kind = kindOf(type);
    const common = { id, placeholder: isParam ? preset : HINTS[kind], spellcheck: "false" };
    if (kind === "boolean") {
      const empty = isParam ? `default: ${preset}` : required ? "choose" : "null";
      this.input = el("select", { id }, [["", empty], ["true", "true"], ["false", "false"]].map(([value, text]) =>
        el("option", { value }, text)));
    } else if (type.scalar) this.input = el("input", { ...common, type: "text", inputmode: MODES[kind] });
    else this.input = el("textarea", { ...common, rows: "2" });
    this.input.addEventListener("input", () => this.show(""));
    this.fault = el("p", { id: `${id}-fault`, class: "fault" });
    this.about = el("p", { id: `${id}-about`, class: "muted" }, description);
    this.node = el("div", { class: "field" },
      el("label", { for: id }, el("span", { class: "name" }, name),
        el("span", { class: "type" }, ` ${typeText(type)}${required || isParam ? "" : ", optional"}`)),
      this.input, this.about, this.fault);
    // An empty text is a text; elsewhere an empty field has no value.
    if (kind === "string" && (isParam || !required)) {
      this.without = el("input", { type: "checkbox", checked: true });
      this.input.addEventListener("input", () => { this.without.checked = false; });
      const hidden = el("span", { class: "hidden" }, ` for ${name}`);
      this.input.after(el("label", { class: "check" }, this.without, isParam ? " default" : " null", hidden));
    }
    this.show("");
  }

  value() {
    return this.without?.checked ? this.empty : valueOf(this.type, this.input.value) ?? this.empty;
  }

  show(fault) {
    this.fault.textContent = fault;
    const ids = [this.fault, this.about].filter((one) => one.textContent).map((one) => one.id).join(" ");
    for (const [name, value] of [["aria-invalid", fault && "true"], ["aria-describedby", ids]]) {
      if (value) this.input.setAttribute(name, value);
      else this.input.removeAttribute(name);
    }
  }
}
