#!/usr/bin/env bash
# Runs the whole test suite, making the environment first if it is missing. Arguments go to pytest; -n 0 runs in one
# process, -m "not slow" leaves out what takes seconds.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" requirements-dev.txt
if ! "$PYTHON" -c 'import pytest, xdist'; then
    echo "error: $PYTHON has no pytest with pytest-xdist: install requirements-dev.txt there" >&2
    exit 2
fi
"$PYTHON" -m pytest -q -n auto --dist worksteal "$@"
echo "tests passed"
