#!/usr/bin/env bash
# Sets up once, then shows runs in TensorBoard: scripts/tensorboard.sh [run or logdir] [flags]
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=environment.sh
. "$(dirname -- "$(readlink -f -- "$0" 2>/dev/null || echo "$0")")/environment.sh"
set_up
exec "$python" -I -m pipeline.watch "$@"
