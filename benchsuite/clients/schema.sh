#!/usr/bin/env bash
# The API against its own description, by schemathesis: no 5xx, no answer that breaks its schema.
#
# Usage: schema.sh SCHEMATHESIS http://127.0.0.1:8080
set -euo pipefail
schemathesis=$1
address=$2
common=(run "$address/openapi.json" --phases "examples,coverage,fuzzing" --workers 2 --request-timeout 120)
# Whether a file is a card, and a line a chat message, is more than a schema can say: there, what is refused is no fault.
files=(--include-path /v1/characters/import --include-path /v1/sessions/import)
# A model writes each character: few examples.
slow=(--include-name 'POST /v1/characters')
"$schemathesis" "${common[@]}" --max-examples 40 --exclude-path /v1/characters/import --exclude-path /v1/sessions/import \
    --exclude-path /v1/characters
"$schemathesis" "${common[@]}" --max-examples 40 "${files[@]}" --exclude-checks positive_data_acceptance
"$schemathesis" "${common[@]}" --max-examples 2 "${slow[@]}" --exclude-checks positive_data_acceptance
"$schemathesis" "${common[@]}" --max-examples 40 --include-name 'GET /v1/characters'
