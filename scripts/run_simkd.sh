#!/usr/bin/env bash
# Every method of SimKD's table on its three pairs, with the published weights, TRIALS times (see run_published.sh).
exec bash "$(dirname "${BASH_SOURCE[0]}")/run_published.sh" simkd "$@"
