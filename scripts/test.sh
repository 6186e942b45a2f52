#!/usr/bin/env bash
# Sets up once, then checks everything: scripts/test.sh [flags of pytest]
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
set_up test
cd "$checkout"
"$python" -m ruff check .
"$python" -m ruff format --check .
"$python" -m mypy
"$python" -m pytest "$@"
