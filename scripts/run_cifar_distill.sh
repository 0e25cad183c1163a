#!/usr/bin/env bash
# Every method of RepDistiller's tables on its 13 pairs, with the published weights, TRIALS times (see published.sh).
source "$(dirname "${BASH_SOURCE[0]}")/published.sh"
distill_all repdistiller
conclude
