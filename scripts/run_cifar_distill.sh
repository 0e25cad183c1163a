#!/usr/bin/env bash
# Every method of RepDistiller's tables on its 13 pairs, with the published weights, TRIALS times (see run_published.sh).
exec bash "$(dirname "${BASH_SOURCE[0]}")/run_published.sh" repdistiller "$@"
