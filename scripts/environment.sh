# shellcheck shell=bash
# Sourced by the other scripts. `set_up` makes .venv in the checkout, or brings it up to date, and
# leaves the path of its interpreter in $python.

# What a shell has set for other projects leads neither `cd` nor Python astray.
unset CDPATH PYTHONHOME PYTHONPATH

checkout=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
constraints=$checkout/scripts/constraints.txt
venv=$checkout/.venv
python=$venv/bin/python
stamp=$venv/.installed

version() { # Such as 3.12; nothing where it does not start.
  "$1" -I -c 'import sys; print(*sys.version_info[:2], sep=".")' 2>/dev/null
}

find_python() { # The Python to make .venv with: that of $PYTHON, or of today's .venv, or another.
  local candidate found
  if [ -n "${PYTHON:-}" ]; then
    set -- "$PYTHON"
  else
    set -- "$python" python3 python3.13 python3.12 python3.11 python3.10 python
  fi
  for candidate; do
    # The interpreter below, as a virtual environment may be the one that is made anew.
    found=$("$candidate" -I -c 'import ensurepip, sys, venv; print(sys._base_executable)
sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null) && echo "$found" && return
  done
  candidate=${PYTHON:-python3}
  found=$("$candidate" --version 2>&1) || found="does not start"
  echo "Python 3.10, 3.11, 3.12 or 3.13 with its venv module is needed; received $candidate" \
    "($found). Install one (on Debian also python3-venv), or name it with" \
    "PYTHON=/path/to/python3.12." >&2
  return 1
}

made_from() { # All that an installation depends on.
  version "$python" && echo "$checkout" &&
    cat "$checkout/pyproject.toml" "$checkout/setup.cfg" "$constraints"
}

is_up_to_date() { # Was it made from what there is today, with the Python that is asked for?
  [ -z "${PYTHON:-}" ] || [ "$(version "$PYTHON")" = "$(version "$python")" ] || return
  made_from 2>/dev/null | cmp -s - "$stamp"
}

has_pip() { # uv makes environments without it. Its metadata come last: with them it is complete.
  { "$python" -I -c 'from importlib import metadata; metadata.version("pip")' ||
    "$python" -I -m ensurepip; } >/dev/null 2>&1
}

wait_for_others() { # Locks file 9; the lock ends with the last process that has it open.
  "$1" -I -c 'import fcntl, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
try:
    fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("Waiting for another script that sets up...", file=sys.stderr)
    fcntl.flock(9, fcntl.LOCK_EX)'
}

install() { # In the tested versions.
  "$python" -I -m pip install --quiet --disable-pip-version-check --no-user \
    --constraint "$constraints" "$@"
}

set_up() {
  local base name
  is_up_to_date && return
  base=$(find_python) || return
  (
    wait_for_others "$base" || exit
    is_up_to_date && exit
    if [ "$(version "$base")" != "$(version "$python")" ] || ! has_pip; then
      echo "Making $venv with Python $(version "$base") (once)..." >&2
      rm -rf "$venv" && "$base" -I -m venv "$venv" || exit
    fi
    rm -f "$stamp"
    echo "Installing into $venv (once; TensorFlow is large, this takes a minute or two)..." >&2
    # Of pip's settings only those count that say where it finds packages.
    for name in ${!PIP_@}; do
      case $name in
        *INDEX* | *LINKS | *HOST | *CERT | *PROXY | *TIMEOUT | *RETRIES | *CACHE* | *CONFIG_FILE) ;;
        *) unset "$name" ;;
      esac
    done
    # The build backend comes first, in the tested version too.
    install setuptools && install --no-build-isolation --editable "${checkout}[test]" &&
      made_from >"$stamp"
  ) 9>>"$constraints"
}
