// The call of the form as commands and code. A token stands in them as a variable, never as it is.

import { innerType, isFloating, isNotFinite, kindOf, Num, write } from "./values.js";

const shell = (text) => `'${text.replaceAll("'", `'\\''`)}'`;
const mapOf = (key, value) => new Map([[key, value]]);

/** The snippets by their titles, for a call `{model, version, alias, row, params, types, base, grpc, secured}`. */
export const SNIPPETS = { curl, grpcurl, Python: python, "Nussknacker SpEL": spel };

/** The body of a request, exactly as it is sent. */
export function bodyOf({ row, params }) {
  return write(new Map([["rows", [row]], ...(params.size ? [["params", params]] : [])]));
}

/** The path of a request, from the root. */
export function pathOf({ model, version, alias }) {
  const [kind, chosen] = version ? ["versions", version] : ["aliases", alias];
  return `v1/models/${encodeURIComponent(model)}${chosen ? `/${kind}/${encodeURIComponent(chosen)}` : ""}:score`;
}

function curl(call) {
  return [`curl -sS ${shell(call.base + pathOf(call))}`,
    ...(call.secured ? ['-H "Authorization: Bearer $PRINZ_TOKEN"'] : []),
    "-H 'Content-Type: application/json'", `--data-raw ${shell(bodyOf(call))}`].join(" \\\n  ");
}

function grpcurl(call) {
  const columns = [...call.row].map(([name, one]) => column(name, one, innerType(call.types.row, name)));
  const params = [...call.params].map(([name, one]) => [name, message(one, innerType(call.types.params, name))]);
  const reference = Object.entries({ name: call.model, version: call.version, alias: call.alias });
  const request = new Map([
    ["model", new Map(reference.filter(([, one]) => one))],
    // A column that is left out is null.
    ["columns", new Map([["num_rows", new Num("1")], ["columns", columns.filter(Boolean)]])],
    ...(params.length ? [["params", new Map(params)]] : []),
  ]);
  return [`grpcurl${call.grpc.tls ? "" : " -plaintext"}`,
    ...(call.secured ? ['-H "authorization: Bearer $PRINZ_TOKEN"'] : []), `-d ${shell(write(request))}`,
    `${shell(`${call.grpc.host}:${call.grpc.port}`)} prinz.enricher.v1.EnricherService/Score`].join(" \\\n  ");
}

const COLUMNS = {
  bool_value: "bools", int64_value: "int64s", double_value: "doubles", string_value: "strings", bytes_value: "binaries",
};

/** A column of one value; none for a null. */
function column(name, value, type) {
  const one = message(value, type);
  const [[kind, held]] = one;
  const [key, only] = type.scalar ? [COLUMNS[kind], held] : ["nested", one];
  return value === null ? undefined : new Map([["name", name], [key, mapOf("values", [only])]]);
}

/** A value of the contract. */
function message(value, type) {
  const inner = (one, name) => message(one, innerType(type, name));
  if (value === null) return mapOf("null_value", "NULL_VALUE");
  if (typeof value === "boolean") return mapOf("bool_value", value);
  if (Array.isArray(value)) return mapOf("list_value", mapOf("values", value.map((one) => inner(one))));
  if (value instanceof Map) {
    return mapOf("record_value", mapOf("fields", new Map([...value].map(([name, one]) => [name, inner(one, name)]))));
  }
  if (value instanceof Num) {
    return mapOf(isFloating(type) || !/^-?\d+$/.test(value.text) ? "double_value" : "int64_value", value);
  }
  if (isFloating(type) && isNotFinite(value)) return mapOf("double_value", value);
  return mapOf(kindOf(type) === "binary" ? "bytes_value" : "string_value", value);
}

/** A value as an expression of a language. */
function literal(value, type, language) {
  const inner = (one, name) => literal(one, innerType(type, name), language);
  if (value === null) return language.none;
  if (typeof value === "boolean") return language[value];
  if (value instanceof Num) return language.number(value.text);
  if (Array.isArray(value)) return language.list(value.map((one) => inner(one)));
  if (value instanceof Map) {
    return language.map([...value].map(([name, one]) => [language.text(name), inner(one, name)]));
  }
  if (isFloating(type) && isNotFinite(value)) return language.notFinite(value);
  return (language[kindOf(type)] ?? language.text)(value);
}

const PYTHON = {
  none: "None", true: "True", false: "False", number: (text) => text, text: JSON.stringify,
  list: (all) => `[${all.join(", ")}]`, map: (all) => `{${all.map((one) => one.join(": ")).join(", ")}}`,
  notFinite: (text) => `float("${text}")`, binary: (text) => `b64decode(${JSON.stringify(text)})`,
};

function python({ model, version, alias, row, params, types, grpc, secured }) {
  const text = JSON.stringify;
  const chosen = version ? `, version=${text(version)}` : alias ? `, alias=${text(alias)}` : "";
  const options = `${grpc.tls ? ", tls=Tls()" : ""}${secured ? ', token=os.environ["PRINZ_TOKEN"]' : ""}`;
  const more = params.size ? `, params=${literal(params, types.params, PYTHON)}` : "";
  const code = `from prinz_enricher.client import Client, ModelReference${grpc.tls ? ", Tls" : ""}

row = ${literal(row, types.row, PYTHON)}
with Client(${text(`${grpc.host}:${grpc.port}`)}${options}) as client:
    scores = client.score(ModelReference(${text(model)}${chosen}), [row]${more})
    print(scores.version, scores.to_rows())`;
  const imports = [secured && "import os\n", code.includes("b64decode(") && "from base64 import b64decode\n"];
  return [...imports, imports.some(Boolean) && "\n", code].filter(Boolean).join("");
}

const quoted = (text) => `'${text.replaceAll("'", "''")}'`;

const SPEL = {
  none: "null", true: "true", false: "false", text: quoted, number: spelNumber,
  list: (all) => `{${all.join(", ")}}`, map: (all) => `{${all.map((one) => one.join(": ")).join(", ") || ":"}}`,
  // A missing number is NaN to a model.
  notFinite: (text) => ({ Infinity: "(1.0 / 0.0)", "-Infinity": "(-1.0 / 0.0)" })[text] ?? "null",
  binary: (text) => `T(java.util.Base64).getDecoder().decode(${quoted(text)})`,
};

/** A record for the field Input of the enricher. */
function spel({ row, types }) {
  return literal(row, types.row, SPEL);
}

function spelNumber(text) {
  if (!/^-?\d+$/.test(text)) return text;
  const whole = BigInt(text);
  if (whole === -(2n ** 63n)) return "(-9223372036854775807L - 1L)";
  return whole > -(2n ** 31n) && whole < 2n ** 31n ? text : `${text}L`;
}
