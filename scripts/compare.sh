#!/usr/bin/env bash
# Trains the guide's three solutions with the same flags and shows their tables side by side:
# scripts/compare.sh [flags of pipeline.train]
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

logdir=logs/compare/$(date +%Y%m%d-%H%M%S)
tables=$(mktemp -d)
trap 'rm -rf "$tables"' EXIT

for solution in module-custom keras-custom keras-fit; do
  echo "Training $logdir/$solution..." >&2
  {
    echo "$solution"
    "$python" -m pipeline.train --validation_examples=0 "$@" --logdir="$logdir" \
      --run_name="$solution" --model="${solution%-*}" --loop="${solution#*-}"
  } >"$tables/$solution"
  # The table is what stands between the first line and the empty one.
  sed -i -e '2d' -e '/^$/,$d' "$tables/$solution"
done

# The epoch is shown once, and then what each solution says of it.
cut -d: -f1 "$tables/module-custom" | sed '1s/.*//' >"$tables/epochs"
for solution in module-custom keras-custom keras-fit; do
  sed -e 's/^[^:]*: *//' "$tables/$solution" >"$tables/$solution.values"
done
paste -d'|' "$tables"/epochs "$tables"/{module-custom,keras-custom,keras-fit}.values |
  column -t -s'|'
echo
echo "Watch: scripts/tensorboard.sh $logdir"
