#!/bin/sh
# Makes a virtual environment with everything that Reedbed and its tests need, at the versions and hashes of
# requirements.lock: tools/setup.sh [FOLDER], .venv unless told otherwise, of the interpreter $PYTHON, python3 unless set.
# Does nothing when the folder is already as the lock says.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
venv=${1:-.venv}

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "Reedbed needs Python 3.11 or newer; $python is not. On Debian or Ubuntu: apt-get install python3 python3-venv" >&2
    exit 1
fi
stamp=$(cat requirements.lock setup.py | sha256sum | cut -c1-64)
if [ -f "$venv/stamp" ] && [ "$(cat "$venv/stamp")" = "$stamp" ] && "$venv/bin/python" -c 'import reedbed' 2>/dev/null; then
    exit 0
fi
if ! [ -x "$venv/bin/pip" ]; then
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        # Debian keeps venv in a package of its own
        install="apt-get install -y python3-venv"
        if [ "$(id -u)" = 0 ]; then
            apt-get update -q && $install
        elif sudo -n true 2>/dev/null; then
            sudo -n apt-get update -q && sudo -n $install
        else
            echo "Python's venv module is missing. Run: sudo $install" >&2
            exit 1
        fi
    fi
    "$python" -m venv "$venv"
fi
echo "Installing into $venv (once) ..." >&2
"$venv/bin/pip" install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
"$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
echo "$stamp" > "$venv/stamp"
