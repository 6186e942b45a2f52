#!/usr/bin/env bash
# Trains the guide's three solutions with the same flags and shows their tables side by side:
# scripts/compare.sh [flags of pipeline.train]
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=environment.sh
. "$(dirname -- "$(readlink -f -- "$0" 2>/dev/null || echo "$0")")/environment.sh"

set_up

for flag; do
  case $flag in
    --help* | -help* | "--?" | "-?")
      sed -n '2,3s/^# //p' "$checkout/scripts/compare.sh"
      exec "$python" -I -m pipeline.train "$flag"
      ;;
    --model* | -model* | --loop* | -loop* | --logdir* | -logdir* | --run_name* | -run_name*)
      echo "compare.sh: sets --model, --loop, --logdir and --run_name itself; received $flag" >&2
      exit 2
      ;;
  esac
done

logdir=logs/compare/$(date +%Y%m%d-%H%M%S)-$$
output=$(mktemp -d)
trap 'rm -rf "$output"' EXIT
code=0
references=--references # the lines are the same for all three
for solution in module-custom keras-custom keras-fit; do
  status=0
  # The first line tells what is being trained; there is none where a flag is wrong.
  "$python" -I -m pipeline.train --validation_examples=0 "$@" --logdir="$logdir" "$references" \
    --run_name="$solution" --model="${solution%-*}" --loop="${solution#*-}" |
    { IFS= read -r line && echo "$line" >&2 && cat >"$output/$solution"; } ||
    status=${PIPESTATUS[0]}
  case $status in
    0) ;;
    3) code=3 ;; # it diverged, and its table ends there; the others are worth seeing
    *) exit "$status" ;;
  esac
  references=--noreferences
done

table() { # What stands before the empty line, but for the warning, which is too wide.
  echo "$1"
  sed '/^$/,$d; /^Warning: /d' "$output/$1"
}
paste <(table module-custom) <(table keras-custom) <(table keras-fit) |
  awk -F'\t' '
    { for (i = 1; i <= 3; i++) { cell[NR, i] = $i; if (length($i) > width) width = length($i) } }
    END {
      format = "%-" width "s  %-" width "s  %s\n"
      for (row = 1; row <= NR; row++) printf format, cell[row, 1], cell[row, 2], cell[row, 3]
    }'
echo
echo "Watch: $(printf %q "$checkout/scripts/tensorboard.sh") $logdir"
exit "$code"
