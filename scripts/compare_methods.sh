#!/usr/bin/env bash
# Every registered method at its published weights, and the student alone, from one teacher at one budget: a table.
#   TEACHER=save/teachers/NAME STUDENT=resnet8 DATASET=folder DATA_DIR=DIR EPOCHS=8 TRIALS=2 bash scripts/compare_methods.sh
# INIT_EPOCHS is the length of first stages; METHODS, GPU, SAVE_DIR, FLAGS and PYTHON as in run_published.sh.
exec bash "$(dirname "${BASH_SOURCE[0]}")/run_published.sh" compare "$@"
