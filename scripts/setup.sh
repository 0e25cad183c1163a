#!/usr/bin/env bash
# Creates .venv with requirements.txt, or with the requirements files given as arguments, unless that is done already.
# The other scripts source this file: it sets PYTHON to the interpreter and changes to the repository's root.
# With PYTHON=/path/to/python3 in the environment, it uses that interpreter and installs nothing.
# It exits with 2 if the interpreter is older than 3.10, or if a given one has no torch or no torchvision.
set -euo pipefail
for path in SAVE_DIR DATA_DIR TEACHER; do  # relative to the user's directory
    if [ -n "${!path:-}" ]; then declare "$path=$(realpath -m "${!path}")"; fi
done
if [[ ${PYTHON:-} == */* ]]; then PYTHON=$(realpath -s "$PYTHON"); fi  # -s: a virtual environment's python is a link
cd "$(dirname "${BASH_SOURCE[0]}")/.."

check_version() {
    if ! "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
        echo "error: $1 is not a Python of 3.10 or newer: set PYTHON=/path/to/python3" >&2
        exit 2
    fi
}

check_packages() {
    local look='import sys; from importlib.util import find_spec; sys.exit(not all(map(find_spec, sys.argv[1:])))'
    if ! "$1" -c "$look" torch torchvision; then
        echo "error: $1 has no PyTorch with torchvision: install requirements.txt there, or leave PYTHON unset" >&2
        exit 2
    fi
}

if [ -z "${PYTHON:-}" ]; then
    requirements=("${@:-requirements.txt}")
    wanted=$(cat requirements*.txt <(printf '%s\n' "${requirements[@]}") | sha256sum | cut -c1-16)
    PYTHON="$PWD/.venv/bin/python"
    check_version python3
    if [ ! -e ".venv/.installed-$wanted" ]; then
        echo "installing ${requirements[*]} into .venv (PyTorch and its CUDA libraries: about 6 GB, some minutes)"
        [ -x "$PYTHON" ] || python3 -m venv .venv
        "$PYTHON" -m pip install --quiet --disable-pip-version-check "${requirements[@]/#/-r}"
        touch ".venv/.installed-$wanted"
    fi
else
    check_version "$PYTHON"
    check_packages "$PYTHON"
fi
export PYTHON
if [ "${BASH_SOURCE[0]}" = "$0" ]; then echo "ready: $PYTHON"; fi
