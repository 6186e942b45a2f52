#!/usr/bin/env bash
# Sets up once, then trains: scripts/train.sh [flags of pipeline.train]
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
set_up
exec "$python" -m pipeline.train "$@"
