#!/usr/bin/env bash
# Head sharing, TRIALS times each (see run_published.sh): TH-KD with KD and with CRD, the SH-KD teacher and its student,
# beside kd, crd and the student alone, with the commands of HeadSharingKD's README.
#   MODEL_T=wrn_40_2 MODEL_S=wrn_16_2 TRIALS=3 bash scripts/run_headsharing.sh     another pair
#   MORE=1 bash scripts/run_headsharing.sh      also the copied head, the same weights without sharing, and the projector
exec bash "$(dirname "${BASH_SOURCE[0]}")/run_published.sh" headsharing "$@"
