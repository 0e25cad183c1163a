#!/usr/bin/env bash
# Every registered method at its published weights, and the student alone, from one teacher at one budget: a table.
#   TEACHER=save/teachers/NAME STUDENT=resnet8 DATASET=folder DATA_DIR=DIR EPOCHS=8 TRIALS=2 bash scripts/compare_methods.sh
# INIT_EPOCHS is the length of first stages; METHODS, GPU, SAVE_DIR, FLAGS and PYTHON as in published.sh.
source "$(dirname "${BASH_SOURCE[0]}")/published.sh"
: "${TEACHER:?error: set TEACHER to the directory of a teacher, such as save/teachers/NAME}"
student=${STUDENT:-resnet8} init=${INIT_EPOCHS:-2}
names=${METHODS:-$("$PYTHON" -c 'from distiller_zoo import methods; print(*methods)')}

for ((trial = 0; trial < TRIALS; trial++)); do
    vanilla "$student" "$trial"
    for method in $names; do
        flags=()
        case "${method%%+*}" in hint|abound|factor|fsp) flags=(--init_epochs "$init") ;; esac
        run "$SAVE_DIR/students/${student}_${method}_epochs-${EPOCHS}_trial-$trial" train_student.py \
            --path_t "$TEACHER" --model_s "$student" --distill "$method" "${flags[@]}" --trial "$trial" \
            --skip_validation
    done
done
conclude
