#!/usr/bin/env bash
# Runs everything that needs a GPU, in under 9 minutes: checks of every method, precision, compiled step and resume on
# the device; speed.py for five pairs and for all methods; a short accuracy run of the fast and the plain path.
#   OUT=results/gpu bash scripts/gpu_check.sh data/tiny100      an image folder of a hundred classes, 32x32
# Without a folder it skips the accuracy run. EPOCHS (4): epochs of each run of it.
# Results go to OUT (default: save/gpu_check): report.txt, the output of the parts; errors.txt; speed.json,
# compiled.json, methods.json and trace.json.gz. It needs torch, torchvision, tensorboard and scikit-learn, and no
# network. PYTHON as in setup.sh; default: python3.
# Without CUDA it prints a message and exits with 0. A part that fails or exceeds its time does not stop the others.
data=${1:-}
[ -z "$data" ] || data=$(realpath -m "$data")
OUT=$(realpath -m "${OUT:-save/gpu_check}")
PYTHON=${PYTHON:-python3}
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
if [ -n "$data" ] && [ ! -d "$data" ]; then
    echo "error: there is no folder $data of images" >&2
    exit 2
fi
if ! "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "no CUDA device here: nothing to check"
    exit 0
fi
mkdir -p "$OUT"
rm -f "$OUT/report.txt" "$OUT/errors.txt"
failed=()

# part NAME SECONDS COMMAND...: runs COMMAND for at most SECONDS, with its output in OUT/report.txt and its errors in
# OUT/errors.txt.
part() {
    local name=$1 seconds=$2 start=$SECONDS
    shift 2
    echo "== $name" | tee -a "$OUT/report.txt" >> "$OUT/errors.txt"
    timeout --kill-after=3 "$seconds" "$@" 2>> "$OUT/errors.txt" | tee -a "$OUT/report.txt" || failed+=("$name")
    echo "== $name took $((SECONDS - start)) s" | tee -a "$OUT/report.txt"
}

# accuracy: trains a teacher, then kd students by the default path, compiled, and by the plain path, EPOCHS each.
accuracy() {
    local common=(--dataset folder --data_dir "$data" --epochs "${EPOCHS:-4}" --save_dir "$OUT/runs" --save_freq 0)
    local workers
    workers=$(nproc)
    "$PYTHON" train_teacher.py --model resnet32x4 --name teacher "${common[@]}"
    local student=(--path_t "$OUT/runs/teachers/teacher" --model_s resnet8x4 --distill kd "${common[@]}")
    "$PYTHON" train_student.py "${student[@]}" --name fast
    "$PYTHON" train_student.py "${student[@]}" --name compiled --compile on
    "$PYTHON" train_student.py "${student[@]}" --name plain --compile off --plain_teacher --precision fp32 \
        --loader torch --num_workers "$workers"
}

part checks 170 "$PYTHON" benchmarks/gpu_checks.py
if [ -n "$data" ]; then
    export -f accuracy
    export data OUT PYTHON
    part accuracy 115 bash -ec accuracy
    part table 15 "$PYTHON" scripts/report.py "$OUT/runs"
fi
pairs=resnet32x4:resnet8x4,resnet20:resnet8,wrn_40_2:wrn_16_2,vgg13:vgg8,resnet32x4:ShuffleV2
part speed 75 "$PYTHON" benchmarks/speed.py --pair "$pairs" --method kd,crd --steps 30 --rounds 3 --workers "$(nproc)" \
    --skip_memory --json "$OUT/speed.json"
part compiled 80 "$PYTHON" benchmarks/speed.py --method kd --compile on --steps 50 --rounds 5 --workers "$(nproc)" \
    --skip_memory --json "$OUT/compiled.json" --profile "$OUT/trace.json"
part methods 65 "$PYTHON" benchmarks/speed.py --all --skip_plain --skip_memory --steps 20 --rounds 3 \
    --json "$OUT/methods.json"
gzip -f "$OUT/trace.json" 2> /dev/null || true
rm -rf "$OUT/runs"
if [ ${#failed[@]} -gt 0 ]; then
    echo "FAILED or out of time: ${failed[*]}; see $OUT/errors.txt" >&2
    tail -n 15 "$OUT/errors.txt" >&2
    exit 1
fi
echo "all parts passed: $OUT"
