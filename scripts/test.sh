#!/usr/bin/env bash
# Runs the whole test suite, making the environment first if it is missing. Arguments go to pytest.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" requirements-dev.txt
"$PYTHON" -m pytest -q "$@"
echo "tests passed"
