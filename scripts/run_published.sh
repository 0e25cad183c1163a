#!/usr/bin/env bash
# Runs an experiment of published.py with sweep.py: finished runs are skipped, broken ones resumed, and the table and the
# pictures in SAVE_DIR end it.
#   bash scripts/run_published.sh repdistiller --methods kd,crd      as METHODS="kd crd" bash scripts/run_cifar_distill.sh
# From the environment: what `published.py --help` lists (DATASET, TRIALS, EPOCHS, METHODS, ...), GPU (devices to spread
# the runs over, such as 0,1 or cpu), JOBS (runs at a time on each), SHARD (I/N: this is worker I of N on a shared disk),
# PYTHON (see setup.sh).
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
list=$("$PYTHON" scripts/published.py "$@")
save=${SAVE_DIR:-save}
exec "$PYTHON" scripts/sweep.py --list - --gpus "${GPU:-}" --jobs "${JOBS:-1}" --shard "${SHARD:-1/1}" \
    --plot "$save/curves.png" --bars "$save/bars.png" --heads "$save/heads.png" <<< "$list"
