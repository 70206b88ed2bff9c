// Computes every golden vector again from its text alone, and compares: node tests/golden/check.mjs FILE
// A second implementation on purpose: its own JSON reader, since JSON.parse loses integers past 2^53 and takes
// the last of two equal keys; its own nine decimals, since toFixed rounds ties up and gives up at 1e21.
import { createHash, createHmac } from "node:crypto";
import { readFileSync } from "node:fs";

class Refused extends Error {}

// -- JSON, with numbers kept as text --------------------------------------------------------------------
class NumberText { constructor(text) { this.text = text; } }

function parse(text) {
  let at = 0;
  const space = () => { while (" \t\n\r".includes(text[at] ?? "x")) at += 1; };
  const fail = () => { throw new Refused("body"); };
  const take = (pattern) => {
    pattern.lastIndex = at;
    const found = pattern.exec(text);
    if (!found) fail();
    at = pattern.lastIndex;
    return found[0];
  };
  const value = () => {
    space();
    if (text[at] === "{") return object();
    if (text[at] === "[") return list();
    if (text[at] === '"') return string();
    for (const [word, meaning] of [["true", true], ["false", false], ["null", null]]) {
      if (text.startsWith(word, at)) { at += word.length; return meaning; }
    }
    return new NumberText(take(/-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?/y));
  };
  const string = () => {
    const decoded = JSON.parse(take(/"(?:[^"\\\u0000-\u001f]|\\(?:["\\\/bfnrt]|u[0-9a-fA-F]{4}))*"/y));
    if (!decoded.isWellFormed()) fail();
    return decoded;
  };
  const list = () => {
    const items = [];
    at += 1; space();
    if (text[at] === "]") { at += 1; return items; }
    for (;;) {
      items.push(value()); space();
      if (text[at] === "]") { at += 1; return items; }
      if (text[at] !== ",") fail();
      at += 1;
    }
  };
  const object = () => {
    const found = new Map();
    at += 1; space();
    if (text[at] === "}") { at += 1; return found; }
    for (;;) {
      space();
      const key = string(); space();
      if (text[at] !== ":" || found.has(key)) fail();
      at += 1;
      found.set(key, value()); space();
      if (text[at] === "}") { at += 1; return found; }
      if (text[at] !== ",") fail();
      at += 1;
    }
  };
  const top = value(); space();
  if (at !== text.length || !(top instanceof Map)) fail();
  return top;
}

// -- nine decimals of a binary64, exactly ---------------------------------------------------------------
function fixed9(number) {
  const view = new DataView(new ArrayBuffer(8));
  view.setFloat64(0, number);
  const bits = view.getBigUint64(0);
  const exponent = Number((bits >> 52n) & 0x7ffn);
  const fraction = bits & ((1n << 52n) - 1n);
  const mantissa = exponent === 0 ? fraction : fraction | (1n << 52n);
  const shift = (exponent === 0 ? 1 : exponent) - 1075; // value = mantissa * 2^shift
  let scaled = mantissa * 10n ** 9n;
  if (shift >= 0) {
    scaled <<= BigInt(shift);
  } else {
    const divisor = 1n << BigInt(-shift);
    const rest = scaled % divisor;
    scaled /= divisor;
    if (rest * 2n > divisor || (rest * 2n === divisor && scaled % 2n === 1n)) scaled += 1n;
  }
  const digits = scaled.toString().padStart(10, "0");
  const sign = bits >> 63n === 1n && scaled !== 0n ? "-" : "";
  return `${sign}${digits.slice(0, -9)}.${digits.slice(-9)}`;
}

// -- the eight fields -----------------------------------------------------------------------------------
const hex = (name, value) => {
  if (typeof value !== "string" || !/^[0-9a-f]{64}$/.test(value)) throw new Refused(name);
  return value;
};
const measure = (name, value) => {
  const number = value instanceof NumberText ? Number(value.text) : NaN;
  if (!Number.isFinite(number)) throw new Refused(name);
  return fixed9(number);
};
const epoch = (name, value) => {
  if (!(value instanceof NumberText) || !/^-?[0-9]+$/.test(value.text)) throw new Refused(name);
  const whole = BigInt(value.text);
  if (whole < 0n || whole >= 1n << 63n) throw new Refused(name);
  return whole.toString();
};
const shard = (name, value) => {
  if (typeof value !== "string" || value === "" || [...value].length > 200) throw new Refused(name);
  return value;
};

function canonical(fields) {
  const root = hex("merkle_root", fields.get("merkle_root"));
  const number = epoch("epoch", fields.get("epoch"));
  const name = shard("shard_id", fields.get("shard_id"));
  const measures = Object.fromEntries(["D_hat", "coh_star", "r", "budget"].map((m) => [m, measure(m, fields.get(m))]));
  const id = createHash("sha256").update(`${root}|${number}|${name}`).digest("hex");
  if (id !== fields.get("pcs_id")) throw new Refused("pcs_id");
  const texts = { ...measures, epoch: number, merkle_root: JSON.stringify(root), pcs_id: JSON.stringify(id), shard_id: JSON.stringify(name) };
  return `{${Object.keys(texts).sort().map((key) => `"${key}":${texts[key]}`).join(",")}}`;
}

// -- compare --------------------------------------------------------------------------------------------
const file = JSON.parse(readFileSync(process.argv[2], "utf8"));
const key = Buffer.from(file.key, "hex");
let wrong = 0;
for (const vector of file.vectors) {
  let said;
  try {
    const payload = canonical(parse(vector.body));
    said = { payload, signature: createHmac("sha256", key).update(payload, "utf8").digest("base64") };
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    said = { refused: error.message };
  }
  const expected = "refused" in vector ? { refused: vector.refused } : { payload: vector.payload, signature: vector.signature };
  if (JSON.stringify(said) !== JSON.stringify(expected)) {
    wrong += 1;
    console.error(`${vector.name}: expected ${JSON.stringify(expected)}, computed ${JSON.stringify(said)}`);
  }
}
console.log(`${file.vectors.length} vectors, ${wrong} wrong`);
process.exit(wrong === 0 && file.vectors.length > 0 ? 0 : 1);
