// Values without loss: JSON in which a number stays the text that it is, and the types of the contract as text.

/** A number as it was written. */
export class Num {
  constructor(text) {
    this.text = text;
  }
}

const TOKEN = /"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;
const NUMBER = /^-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?$/;

/** Parses JSON: objects are maps, numbers are `Num`; throws SyntaxError. */
export function parse(text) {
  JSON.parse(text);
  // Each text and each number becomes a text that says which of both it was.
  return unmark(JSON.parse(text.replace(TOKEN, (one) => (one[0] === '"' ? `"s${one.slice(1)}` : `"n${one}"`))));
}

function unmark(value) {
  if (typeof value === "string") return value[0] === "n" ? new Num(value.slice(1)) : value.slice(1);
  if (Array.isArray(value)) return value.map(unmark);
  if (value === null || typeof value !== "object") return value;
  return new Map(Object.entries(value).map(([key, one]) => [key.slice(1), unmark(one)]));
}

/** Writes what `parse` returns. */
export function write(value) {
  if (value instanceof Num) return value.text;
  if (Array.isArray(value)) return `[${value.map(write).join(", ")}]`;
  if (!(value instanceof Map)) return JSON.stringify(value);
  return `{${[...value].map(([key, one]) => `${JSON.stringify(key)}: ${write(one)}`).join(", ")}}`;
}

/** The name of a type's kind, such as `double`, `list` or `any`. */
export function kindOf(type) {
  return type.scalar ? type.scalar.replace("SCALAR_TYPE_", "").toLowerCase() : Object.keys(type)[0];
}

export const isFloating = (type) => ["float", "double"].includes(kindOf(type)) || /^float/.test(type.tensor?.dtype);
export const isNotFinite = (value) => ["NaN", "Infinity", "-Infinity"].includes(value);

/** What is within a list, a map, a record or a tensor, by the name of a property. */
export function innerType(type, name) {
  const property = type.record?.fields?.find((field) => field.name === name);
  return type.list?.items ?? type.map?.values ?? property?.type ?? (type.tensor ? type : { any: {} });
}

/** A type as a person reads it, such as `array(long)`; parameters may have a shape. */
export function typeText(type, shape = []) {
  if (shape.length) return `array(${typeText(type)})`;
  if (type.list) return `array(${typeText(type.list.items)})`;
  if (type.map) return `map(${typeText(type.map.values)})`;
  if (type.tensor) return `tensor(${type.tensor.dtype}, [${(type.tensor.shape ?? []).join(", ")}])`;
  if (!type.record) return kindOf(type);
  const fields = (type.record.fields ?? []).map(({ name, required, type: one }) =>
    `${name}${required ? "" : "?"}: ${typeText(one)}`);
  return `object{${fields.join(", ")}}`;
}

/** What is written in a field of a form, as a value: undefined where it is left out; throws SyntaxError. */
export function valueOf(type, text) {
  const kind = kindOf(type);
  if (kind === "string") return text;
  const trimmed = text.trim();
  if (trimmed === "") return undefined;
  if (kind === "boolean") return trimmed === "true";
  if (["integer", "long", "float", "double"].includes(kind) && NUMBER.test(trimmed)) return new Num(trimmed);
  // The service says what is wrong with a text.
  return type.scalar ? trimmed : parse(trimmed);
}

/** A default of the contract, as text. */
export function defaultText(value) {
  const [[kind, held]] = Object.entries(value ?? { nullValue: null });
  if (kind === "listValue") return `[${(held.values ?? []).map(defaultText).join(", ")}]`;
  return kind === "timestampValue" ? new Date(Number(BigInt(held) / 1000n)).toISOString() : String(held);
}
