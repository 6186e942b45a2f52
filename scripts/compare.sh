#!/usr/bin/env bash
# Trains the guide's three solutions with the same flags and shows their tables side by side:
# scripts/compare.sh [flags of pipeline.train]
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
set_up

logdir=logs/compare/$(date +%Y%m%d-%H%M%S)
tables=$(mktemp -d)
trap 'rm -rf "$tables"' EXIT

for solution in module-custom keras-custom keras-fit; do
  echo "Training $logdir/$solution..." >&2
  {
    echo "$solution"
    "$python" -m pipeline.train --validation_examples=0 "$@" --logdir="$logdir" \
      --run_name="$solution" --model="${solution%-*}" --loop="${solution#*-}"
    # The table is what stands between the first line and the empty one.
  } | sed -e '2d' -e '/^$/,$d' >"$tables/$solution"
done

paste -d'|' "$tables"/{module-custom,keras-custom,keras-fit} |
  while IFS='|' read -r module_custom keras_custom keras_fit; do
    printf '%-48s  %-48s  %s\n' "$module_custom" "$keras_custom" "$keras_fit"
  done
echo
echo "Watch: scripts/tensorboard.sh $logdir"
