#!/bin/sh
# Readies what `make bench` needs: .venv-bench of Debian's own Python, which is faster than one that was built without
# optimisation and stands first on the path, and nginx, where it may be installed. Without nginx the rest is measured.
set -eu
cd "$(dirname "$0")/.."
system=/usr/bin/python3
if [ -z "${PYTHON:-}" ] && "$system" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    PYTHON=$system
    export PYTHON
fi
tools/setup.sh .venv-bench

if PATH="$PATH:/usr/sbin:/usr/local/sbin" command -v nginx >/dev/null || ! command -v apt-get >/dev/null; then
    exit 0
fi
# RUNLEVEL=1: what the package would start is not wanted, only the program
install="env RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends nginx"
as=""
if [ "$(id -u)" != 0 ]; then
    if ! sudo -n true 2>/dev/null; then
        echo "nginx is missing, and will not be measured. Install it with: sudo apt-get install -y nginx" >&2
        exit 0
    fi
    as="sudo -n"
fi
echo "Installing nginx (once) ..." >&2
{ $as apt-get update -q && $as $install; } >/dev/null || echo "nginx could not be installed, and will not be measured" >&2
