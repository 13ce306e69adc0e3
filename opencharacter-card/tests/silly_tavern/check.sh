#!/bin/sh
# Both directions against SillyTavern's own packages. Needs node, npm and cargo; run from anywhere:
#
#   opencharacter-card/tests/silly_tavern/check.sh          they read what we write
#   opencharacter-card/tests/silly_tavern/check.sh --golden and the golden PNGs, which our tests read, are made anew
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
npm install --silent --no-audit --no-fund png-chunks-extract@1.0.0 png-chunks-encode@1.0.0 png-chunk-text@1.0.0 >/dev/null
convert() { (cd "$here/../../.." && cargo run --quiet --release -p opencharacter-card --example convert -- "$@"); }

for card in "$here"/../cards/*.json; do
    name=$(basename "$card" .json)
    for format in png-v2 png-v3; do
        convert "$card" "$format" "$work/$name.png"
        convert "$card" "json-${format#png-}" "$work/expected.json"
        node "$here/silly_tavern.mjs" read "$work/$name.png" >"$work/found.json"
        node -e '
            const assert = require("node:assert");
            const read = (file) => JSON.parse(require("node:fs").readFileSync(file, "utf8"));
            assert.deepStrictEqual(read("found.json"), read("expected.json"));
        '
    done
    echo "read by the packages: $name"
done

if [ "${1-}" = --golden ]; then
    # A small picture keeps the golden files small.
    for name in v1 v2_full v2_sillytavern; do
        node "$here/silly_tavern.mjs" write "$here/../bad_input/no_card.png" "$here/../cards/$name.json" "$here/$name.png"
    done
    echo "golden files written"
fi
