#!/usr/bin/env bash
# Teacher assistants (TAKD, arXiv 1902.03393): each network distilled by kd from the one before it, TRIALS times the last.
#   bash scripts/run_takd.sh resnet110 resnet20 resnet8              one assistant, as published
#   FLAGS="--recipe dih" bash scripts/run_takd.sh resnet110 resnet56 resnet32 resnet14 resnet8
# From the environment as in run_published.sh.
exec bash "$(dirname "${BASH_SOURCE[0]}")/run_published.sh" takd "$@"
