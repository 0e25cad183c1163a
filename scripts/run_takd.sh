#!/usr/bin/env bash
# Teacher assistants (TAKD, arXiv 1902.03393): each network distilled by kd from the one before it, TRIALS times the last.
#   bash scripts/run_takd.sh resnet110 resnet20 resnet8              one assistant, as published
#   FLAGS="--recipe dih" bash scripts/run_takd.sh resnet110 resnet56 resnet32 resnet14 resnet8
# From the environment as in published.sh.
if [ $# -lt 2 ]; then
    echo "usage: bash scripts/run_takd.sh TEACHER ASSISTANT... STUDENT (names of networks)" >&2
    exit 2
fi
source "$(dirname "${BASH_SOURCE[0]}")/published.sh"
chain "$@"
conclude
