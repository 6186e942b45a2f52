#!/usr/bin/env bash
# Sets up once, then trains: scripts/train.sh [flags of pipeline.train]
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=environment.sh
. "$(dirname -- "$(readlink -f -- "$0" 2>/dev/null || echo "$0")")/environment.sh"
set_up
exec "$python" -I -m pipeline.train "$@"
