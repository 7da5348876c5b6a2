#!/usr/bin/env bash
# One job with Claude Code: the payload's prompt goes in, what Claude says at the end is the job's result.
#
#     holdfast worker run --types claude --exec ./claude.sh
set -euo pipefail

# 65: a payload without a prompt does not get better by being tried again.
prompt=$(python3 -c 'import json, sys; print(json.load(sys.stdin)["prompt"])') || exit 65

# For this run alone, so nothing of the machine's own settings is touched. The hook parks Claude between two tool calls
# while workers are quiesced, for as long as HOLD_LIMIT.
settings=$(holdfast hook install --client claude-code --limit "${HOLD_LIMIT:-12h}" 2> /dev/null)

claude --print --settings "$settings" --allowedTools "${CLAUDE_TOOLS:-Bash,Edit,Write}" \
    <<< "$prompt" > "$HOLDFAST_RESULT_FILE"
