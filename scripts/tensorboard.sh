#!/usr/bin/env bash
# Sets up once, then shows runs in TensorBoard: scripts/tensorboard.sh [run or logdir] [flags]
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
set_up
exec "$python" -m pipeline.watch "$@"
