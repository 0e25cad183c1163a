#!/usr/bin/env bash
# All that needs a GPU, in under 9 minutes, for the day one is at hand: checks of every method, precision, compiled step
# and resume on the device; speed.py for five pairs and all methods; a short accuracy run of the fast and the plain path.
#   OUT=results/gpu bash scripts/gpu_check.sh data/tiny100      an image folder of a hundred classes, 32x32
# Results go to OUT (save/gpu_check): checks.txt, speed.json, speed.txt, methods.txt, compiled.txt, trace.json.gz,
# accuracy.txt. Needs torch, torchvision, tensorboard and scikit-learn, no network; PYTHON as in setup.sh, or python3.
# Without CUDA it says so and exits 0. A part that fails, or outlasts its time, does not stop the others.
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
failed=()

# part NAME SECONDS COMMAND...: its output goes to OUT/NAME.txt.
part() {
    local name=$1 seconds=$2 start=$SECONDS
    shift 2
    timeout --kill-after=5 "$seconds" "$@" > "$OUT/$name.txt" 2> "$OUT/$name.err" || failed+=("$name")
    echo "== $name ($((SECONDS - start)) s)"
    tail -n 40 "$OUT/$name.txt"
}

# accuracy: a teacher, then kd from it by the default path and by the plain one, EPOCHS each.
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
    "$PYTHON" scripts/report.py "$OUT/runs"
}

part checks 150 "$PYTHON" benchmarks/gpu_checks.py
if [ -n "$data" ]; then
    export -f accuracy
    export data OUT PYTHON
    part accuracy 150 bash -ec accuracy
fi
pairs=resnet32x4:resnet8x4,resnet20:resnet8,wrn_40_2:wrn_16_2,vgg13:vgg8,resnet32x4:ShuffleV2
part speed 90 "$PYTHON" benchmarks/speed.py --pair "$pairs" --method kd,crd --steps 30 --rounds 3 --workers "$(nproc)" \
    --skip_memory --json "$OUT/speed.json"
part compiled 60 "$PYTHON" benchmarks/speed.py --method kd --compile on --steps 50 --rounds 5 --workers "$(nproc)" \
    --json "$OUT/compiled.json" --profile "$OUT/trace.json"
part methods 80 "$PYTHON" benchmarks/speed.py --all --skip_plain --skip_memory --steps 20 --rounds 3 \
    --json "$OUT/methods.json"
gzip -f "$OUT/trace.json" 2> /dev/null || true
rm -rf "$OUT/runs"/*/*/*.pth
for name in "${failed[@]}"; do
    echo "FAILED or out of time: $name; see $OUT/$name.err" >&2
    tail -n 15 "$OUT/$name.err" >&2
done
[ ${#failed[@]} -eq 0 ] && echo "all parts passed: $OUT"
