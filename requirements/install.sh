#!/bin/sh
# install.sh VENV REQUIREMENTS: make the virtual environment VENV from hashed pins.
# The stamp VENV/.ready is written last, so an interrupted call starts again.
set -eu
venv=$1
requirements=$2
python=${PYTHON:-python3}

if ! "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'; then
    echo "$python is $("$python" -V 2>&1 || echo missing); this project runs on Python 3.11 to 3.13." >&2
    echo "Name another interpreter: PYTHON=python3.12 make ..." >&2
    exit 2
fi
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    echo "$python cannot make virtual environments; on Debian: apt-get install python3-venv" >&2
    exit 2
fi

echo "making $venv from $requirements (once) ..." >&2
rm -rf "$venv"
"$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps \
    --only-binary :all: --requirement "$requirements"
touch "$venv/.ready"
