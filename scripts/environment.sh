# Sourced by the other scripts. `set_up [extra of setup.cfg]` makes .venv in the checkout, if
# it is not there yet, and leaves the path of its interpreter in $python.

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$checkout/.venv
python=$venv/bin/python

suited() { # Is this a Python that TensorFlow has a package for?
  "$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' \
    >/dev/null 2>&1
}

find_python() {
  local candidate candidates=${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10 python}
  for candidate in $candidates; do
    if suited "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  echo "Python 3.10, 3.11, 3.12 or 3.13 with its venv module is needed; there is none among:" \
    "$candidates ($(python3 --version 2>&1)). Install one (on Debian also python3-venv), or" \
    "name it with PYTHON=/path/to/python3.12." >&2
  return 1
}

set_up() {
  local extra=${1:-} base
  # It is installed when a stamp holds the requirements of today; any extra has all others.
  local stamp=$venv/.installed${extra:+-$extra} found
  for found in "$stamp"*; do
    cmp -s "$checkout/setup.cfg" "$found" 2>/dev/null && return
  done
  if ! suited "$python"; then
    base=$(find_python) || return 1
    echo "Making $venv with $("$base" --version) (once)..." >&2
    rm -rf "$venv"
    "$base" -m venv "$venv" || return 1
  fi
  echo "Installing into $venv (once; TensorFlow is large, this takes a minute or two)..." >&2
  "$python" -m pip install --quiet --disable-pip-version-check \
    --editable "$checkout${extra:+[$extra]}" || return 1
  cp "$checkout/setup.cfg" "$stamp"
}
