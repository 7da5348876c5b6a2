#!/usr/bin/env bash
# One job with Codex: the payload's prompt goes in, what Codex says at the end is the job's result.
#
#     holdfast worker run --types codex --exec ./codex.sh
set -euo pipefail

# 65: a payload without a prompt does not get better by being tried again.
prompt=$(python3 -c 'import json, sys; print(json.load(sys.stdin)["prompt"])') || exit 65

# Codex passes over a hook that it was not told to trust, and says nothing: this tells it, or fails. The hook parks Codex
# between two tool calls while workers are quiesced, for as long as HOLD_LIMIT. Once it is there, this changes nothing.
holdfast hook install --client codex --write --trust --limit "${HOLD_LIMIT:-12h}"

codex exec --skip-git-repo-check --sandbox "${CODEX_SANDBOX:-workspace-write}" \
    --output-last-message "$HOLDFAST_RESULT_FILE" - <<< "$prompt"
