# Sourced by the other scripts: makes .venv in the checkout once and sets $python to its
# interpreter. Usage: . environment.sh [extra of setup.cfg]

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$checkout/.venv
python=$venv/bin/python
extra=${1:-}

suited() { # Is this a Python that TensorFlow has a package for?
  "$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' \
    >/dev/null 2>&1
}

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10 python}; do
    if suited "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  echo "Python 3.10, 3.11, 3.12 or 3.13 with its venv module is needed; found" \
    "$(python3 --version 2>/dev/null || echo none). Install one (on Debian: python3-venv)," \
    "or name it with PYTHON=/path/to/python3.12." >&2
  return 1
}

install() {
  local base
  if ! suited "$python"; then
    base=$(find_python) || return 1
    echo "Making $venv with $("$base" --version) (once)..." >&2
    rm -rf "$venv"
    "$base" -m venv "$venv" || return 1
  fi
  echo "Installing into $venv (once; TensorFlow is large, this takes a minute or two)..." >&2
  "$python" -m pip install --quiet --disable-pip-version-check \
    --editable "$checkout${extra:+[$extra]}" || return 1
  cat "$checkout/setup.cfg" >"$stamp"
}

# Installed when the stamp of this extra holds the requirements of today.
stamp=$venv/.installed${extra:+-$extra}
if ! cmp -s "$checkout/setup.cfg" "$stamp" 2>/dev/null; then
  install || exit 1
fi
