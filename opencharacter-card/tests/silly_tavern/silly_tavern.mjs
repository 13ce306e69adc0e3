// SillyTavern's way with cards: the npm packages png-chunks-extract, png-chunks-encode and png-chunk-text.
//
//   node silly_tavern.mjs write PLAIN.png CARD.json OUT.png   puts the card into a picture
//   node silly_tavern.mjs read CARD.png                       prints the card found in a picture, `ccv3` before `chara`
//
// check.sh beside this installs the packages and runs both directions; PNGs that `write` made are the golden files.

import fs from "node:fs";
import { createRequire } from "node:module";

// The packages lie where the script was started, not beside it.
const require = createRequire(`${process.cwd()}/`);
const extract = require("png-chunks-extract");
const encode = require("png-chunks-encode");
const text = require("png-chunk-text");

const bytes = (file) => new Uint8Array(fs.readFileSync(file));

function write(picture, card, out) {
  const chunks = extract(bytes(picture));
  const json = JSON.parse(fs.readFileSync(card, "utf8"));
  const put = (keyword, value) =>
    chunks.splice(-1, 0, text.encode(keyword, Buffer.from(JSON.stringify(value), "utf8").toString("base64")));
  put("chara", json);
  // What it does for V3: the same object under another name.
  if (json.spec) put("ccv3", { ...json, spec: "chara_card_v3", spec_version: "3.0" });
  fs.writeFileSync(out, Buffer.from(encode(chunks)));
}

function read(file) {
  const found = extract(bytes(file))
    .filter((chunk) => chunk.name === "tEXt")
    .map((chunk) => text.decode(chunk.data));
  for (const keyword of ["ccv3", "chara"]) {
    const chunk = found.find((one) => one.keyword.toLowerCase() === keyword);
    if (chunk) return Buffer.from(chunk.text, "base64").toString("utf8");
  }
  throw new Error("no card");
}

const [command, ...files] = process.argv.slice(2);
if (command === "write") write(...files);
else if (command === "read") process.stdout.write(read(...files));
else throw new Error("expected `write` or `read`");
