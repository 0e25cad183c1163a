#!/usr/bin/env bash
# Trains a teacher, a student alone and the same student with distillation, on scikit-learn's digits. Prints one table
# and draws the learning curves. Environment: EPOCHS (20), TRIAL (0), SAVE_DIR (save/quickstart), PYTHON.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
epochs=${EPOCHS:-20} trial=${TRIAL:-0} save=${SAVE_DIR:-$PWD/save/quickstart}
common=(--dataset digits --epochs "$epochs" --trial "$trial" --save_dir "$save")
run=epochs-${epochs}_trial-$trial

"$PYTHON" train_teacher.py --model resnet20 "${common[@]}" --name "resnet20_$run"
"$PYTHON" train_teacher.py --model resnet8 "${common[@]}" --name "resnet8_$run"
"$PYTHON" train_student.py --distill kd --model_s resnet8 "${common[@]}" \
    --path_t "$save/teachers/resnet20_$run" --name "resnet8_kd_$run"

"$PYTHON" scripts/report.py "$save"/*/*_"$run" --plot "$save/curves.png"
echo "quickstart finished: curves in $save/curves.png, runs in $save"
