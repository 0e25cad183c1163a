#!/usr/bin/env bash
# Distillation via intermediate heads, the whole pipeline for a teacher, a student and a data set: teacher, its heads, then
# DIH and every baseline of DIH's README (KD, FitNets, TAKD, AT, CRD, TOFD, MHKD), TRIALS times each, and the table.
#   DATASET=cifar100 MODEL_T=resnet110 MODEL_S=resnet8 ASSISTANT=resnet20 bash scripts/run_dih.sh
# INIT_EPOCHS is the length of FitNets' first stage; EPOCHS (200), TRIALS (3), METHODS and the others as in published.sh.
# MORE=1 adds the student alone and deep mutual learning.
EPOCHS=${EPOCHS:-200}
source "$(dirname "${BASH_SOURCE[0]}")/published.sh"
teacher=${MODEL_T:-resnet110} student=${MODEL_S:-resnet8} assistant=${ASSISTANT:-resnet20}
with_flags --recipe dih
known dih kd hint takd attention crd tofd mhkd dml alone
names=${METHODS:-"dih kd hint takd attention crd tofd mhkd${MORE:+ dml alone}"}

make_teacher "$teacher" 0
teacher_directory=$vanilla_directory

# heads NAME TYPE: those of the teacher, where the methods look for that type.
heads() {
    local directory="$teacher_directory/$1"
    if [ ! -f "$directory.pth" ]; then rm -f "$directory/metrics.jsonl"; fi  # the run, gone on with, writes both again
    run "$directory" train_heads.py --path_t "$teacher_directory" --head_type "$2"
}

for method in $names; do
    flags=(--path_t "$teacher_directory")
    case "$method" in
        dih) heads heads flat ;;
        tofd) heads heads_sepconv sepconv ;;
        hint) flags+=(--init_epochs "${INIT_EPOCHS:-40}") ;;
        dml) flags=(--peers "$teacher") ;;
    esac
    for ((trial = 0; trial < TRIALS; trial++)); do
        case "$method" in
            alone) vanilla "$student" "$trial" ;;
            takd) ;;  # the chain makes its own trials, below
            *) run "$SAVE_DIR/students/${student//\//.}_T-${teacher//\//.}_${shown}_${method}_epochs-${EPOCHS}_trial-$trial" \
                train_student.py --model_s "$student" --distill "$method" "${flags[@]}" --trial "$trial" ;;
        esac
    done
    if [ "$method" = takd ]; then chain "$teacher" "$assistant" "$student"; fi
done
if compgen -G "$teacher_directory/heads*.pth" > /dev/null; then
    "$PYTHON" scripts/report.py "$teacher_directory" --heads "$SAVE_DIR/heads.png" > /dev/null
fi
conclude
