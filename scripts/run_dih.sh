#!/usr/bin/env bash
# Distillation via intermediate heads, the whole pipeline for a teacher, a student and a data set: teacher, its heads, then
# DIH and every baseline of DIH's README (KD, FitNets, TAKD, AT, CRD, TOFD, MHKD), TRIALS times each, and the table.
#   DATASET=cifar100 MODEL_T=resnet110 MODEL_S=resnet8 ASSISTANT=resnet20 bash scripts/run_dih.sh
# INIT_EPOCHS is the length of FitNets' first stage; EPOCHS (200), TRIALS (3), METHODS and the others as in
# run_published.sh. MORE=1 adds the student alone and deep mutual learning.
exec bash "$(dirname "${BASH_SOURCE[0]}")/run_published.sh" dih "$@"
