# Sourced by the run_*.sh scripts: runs of published.tsv, one after another. A finished run is skipped, a broken one
# resumed, a failing one reported at the end without stopping the others.
# From the environment: DATASET, DATA_DIR, TRIALS (how many), EPOCHS, TEACHER_EPOCHS (EPOCHS), GPU, SAVE_DIR, METHODS and
# STUDENTS (only these), FLAGS (more flags for every run), PYTHON.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
DATASET=${DATASET:-cifar100} TRIALS=${TRIALS:-3} EPOCHS=${EPOCHS:-240} GPU=${GPU:-} SAVE_DIR=${SAVE_DIR:-save}
TEACHER_EPOCHS=${TEACHER_EPOCHS:-$EPOCHS}
common=(--dataset "$DATASET" --data_dir "${DATA_DIR:-data}" --gpu_id "$GPU" --save_dir "$SAVE_DIR")
read -ra more <<< "${FLAGS:-}"
failed=()

# with_flags FLAG...: every run has these too, before those of FLAGS. All of them are in the runs' names, as $shown.
with_flags() {
    more=("$@" "${more[@]}")
    local text="${more[*]}"
    shown="$DATASET${text:+_${text//[-\/ ]/}}"
}
with_flags

# known METHOD...: stop if METHODS names another.
known() {
    local method
    for method in ${METHODS:-}; do
        wanted "$method" "$*" || { echo "error: METHODS: there is no '$method' here: choose from $*" >&2; exit 2; }
    done
}

# published SOURCE: its rows of the table, as 'teacher student method flags'; fails if it has none.
# MODEL_T and MODEL_S from the environment take the place of a one-pair source's own.
published() {
    MODEL_T=${MODEL_T:-resnet32x4} MODEL_S=${MODEL_S:-resnet8x4} awk -F'\t' -v OFS='\t' -v source="$1" '
        function chosen(names,    parts, i, n, out) {  # NAME or TEACHER:STUDENT
            n = split(names, parts, ":")
            for (i = 1; i <= n; i++) {
                if (source ~ /^head/ && parts[i] == "resnet32x4") parts[i] = ENVIRON["MODEL_T"]
                else if (source ~ /^head/ && parts[i] == "resnet8x4") parts[i] = ENVIRON["MODEL_S"]
                out = out (i > 1 ? ":" : "") parts[i]
            }
            return out
        }
        $1 == source { print chosen($2), chosen($3), $4, $5; rows++ }
        END { if (!rows) { print "error: scripts/published.tsv has no rows of " source > "/dev/stderr"; exit 2 } }
    ' scripts/published.tsv
}

# wanted WORD LIST: is WORD in the space-separated LIST, or the list empty?
wanted() { [ -z "$2" ] || [[ " $2 " == *" $1 "* ]]; }

# run DIRECTORY SCRIPT FLAG...: train, unless as many epochs are done.
run() {
    local directory=$1 metrics="$1/metrics.jsonl"
    shift
    if [ -f "$metrics" ] && [ "$(wc -l < "$metrics")" -ge "$EPOCHS" ]; then
        echo "done before: $directory"
    else
        "$PYTHON" "$@" "${common[@]}" --epochs "$EPOCHS" "${more[@]}" --name "$(basename "$directory")" || {
            local status=$?
            if [ "$status" -ge 128 ]; then exit "$status"; fi  # Ctrl-C and SIGTERM are meant for all runs
            failed+=("$directory")
        }
    fi
}

# vanilla MODEL TRIAL: train a network by cross-entropy; its directory is in $vanilla_directory.
vanilla() {
    vanilla_directory="$SAVE_DIR/teachers/${1//\//.}_${shown}_epochs-${EPOCHS}_trial-$2"
    run "$vanilla_directory" train_teacher.py --model "$1" --trial "$2"
}

# make_teacher MODEL TRIAL: the same, for TEACHER_EPOCHS. MODEL:OTHER has the classifier of trial 0 of OTHER, frozen (SH-KD).
make_teacher() {
    local head=() name=${1/:/_head-}
    if [[ "$1" == *:* ]]; then
        vanilla "${1#*:}" 0
        head=(--path_th "$vanilla_directory")
    fi
    local EPOCHS=$TEACHER_EPOCHS
    vanilla_directory="$SAVE_DIR/teachers/${name//\//.}_${shown}_epochs-${EPOCHS}_trial-$2"
    run "$vanilla_directory" train_teacher.py --model "${1%:*}" "${head[@]}" --trial "$2"
}

# distill TEACHER STUDENT METHOD 'FLAGS' TRIAL: distil from trial 0 of the teacher, training that first if need be.
distill() {
    local name="S-$2_T-${1/:/_head-}_${shown}_$3_${4//[ -]/}_epochs-${EPOCHS}_trial-$5" flags
    read -ra flags <<< "$4"
    make_teacher "$1" 0
    run "$SAVE_DIR/students/${name//\//.}" train_student.py --path_t "$vanilla_directory" --model_s "$2" --distill "$3" \
        "${flags[@]}" --trial "$5"
}

# chain TEACHER ASSISTANT... STUDENT: each distilled by kd from the one before it; the student TRIALS times.
chain() {
    local path name=${1//\//.} trial
    make_teacher "$1" 0
    path=$vanilla_directory
    shift
    while [ $# -gt 0 ]; do
        name+="-${1//\//.}"
        for ((trial = 0; trial < ($# > 1 ? 1 : TRIALS); trial++)); do
            run "$SAVE_DIR/students/takd_${name}_${shown}_epochs-${EPOCHS}_trial-$trial" train_student.py \
                --path_t "$path" --model_s "$1" --distill kd --trial "$trial"
        done
        path="$SAVE_DIR/students/takd_${name}_${shown}_epochs-${EPOCHS}_trial-0"
        shift
    done
}

# distill_all SOURCE...: every row of them that METHODS and STUDENTS ask for, TRIALS times.
distill_all() {
    local source rows="" teacher student method flags trial
    for source in "$@"; do rows+=$(published "$source")$'\n'; done  # a failure ends the script
    rows=${rows%$'\n'}
    known $(cut -f3 <<< "$rows" | sort -u)
    while IFS=$'\t' read -r -u 3 teacher student method flags; do
        if ! wanted "$method" "${METHODS:-}" || ! wanted "$student" "${STUDENTS:-}"; then continue; fi
        for ((trial = 0; trial < TRIALS; trial++)); do
            if [[ "$student" == *:* ]]; then make_teacher "$student" "$trial"
            elif [ "$method" = alone ]; then vanilla "$student" "$trial"
            else distill "$teacher" "$student" "$method" "$flags" "$trial"; fi
        done
    done 3<<< "$rows"
}

# conclude: the table over all runs, pictures of them beside it, and what failed.
conclude() {
    "$PYTHON" scripts/report.py "$SAVE_DIR" --plot "$SAVE_DIR/curves.png" --bars "$SAVE_DIR/bars.png"
    if [ ${#failed[@]} -gt 0 ]; then
        printf 'failed: %s\n' "${failed[@]}" >&2
        exit 1
    fi
    echo "all runs finished: $SAVE_DIR"
}
