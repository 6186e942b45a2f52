#!/usr/bin/env bash
# Sets up once, then checks everything: scripts/test.sh [flags of pytest]
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=environment.sh
. "$(dirname -- "$(readlink -f -- "$0" 2>/dev/null || echo "$0")")/environment.sh"
set_up
cd "$checkout"
"$python" -m ruff check .
"$python" -m ruff format --check .
"$python" -m mypy
# Tests of one file share runs, so they stay in one process.
"$python" -m pytest --numprocesses=auto --dist=loadfile --no-loadscope-reorder "$@"
