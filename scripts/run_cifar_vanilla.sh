#!/usr/bin/env bash
# Every teacher and student of RepDistiller's and SimKD's tables, by cross-entropy, TRIALS times (see published.sh).
source "$(dirname "${BASH_SOURCE[0]}")/published.sh"
models=$({ published repdistiller; published simkd; } | cut -f1,2 | tr '\t' '\n' | sort -u)
for model in $models; do
    if ! wanted "$model" "${MODELS:-}"; then continue; fi
    for ((trial = 0; trial < TRIALS; trial++)); do vanilla "$model" "$trial"; done
done
conclude
