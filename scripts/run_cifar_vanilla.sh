#!/usr/bin/env bash
# Every teacher and student of RepDistiller's and SimKD's tables, by cross-entropy, TRIALS times; MODELS: only these
# (see run_published.sh).
exec bash "$(dirname "${BASH_SOURCE[0]}")/run_published.sh" vanilla "$@"
