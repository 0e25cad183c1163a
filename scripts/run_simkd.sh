#!/usr/bin/env bash
# Every method of SimKD's table on its three pairs, with the published weights, TRIALS times (see published.sh).
source "$(dirname "${BASH_SOURCE[0]}")/published.sh"
distill_all simkd
conclude
