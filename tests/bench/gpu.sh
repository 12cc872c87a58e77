#!/usr/bin/env bash
# What only a GPU can show, in less than nine minutes; run by hand from the repository's root. Tables and JSON go to $OUT if that
# is set, else to tests/bench/results/. Needs PyTorch; where packages of pyproject.toml are missing, BENCH_WHEELS names a folder
# of wheels that are used without being installed. BENCH_SCALE=digits BENCH_PRECISION=no is a smoke test, which a CPU will do.
set -euo pipefail
out=${OUT:-tests/bench/results}
scale=${BENCH_SCALE:-xl}
precision=${BENCH_PRECISION:-bf16}
name=$out/$(date +%F)-gpu-$scale
if [ -n "${BENCH_WHEELS:-}" ]; then
    site=$(mktemp -d)
    python3 -m pip install -q --no-index --no-deps --no-compile --target "$site" "$BENCH_WHEELS"/*.whl
    PYTHONPATH=$site:${PYTHONPATH:-}
fi
export PYTHONPATH=$PWD:${PYTHONPATH:-} PYTHONUNBUFFERED=1
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader || echo "no GPU"
end=$((SECONDS + ${BENCH_SECONDS:-530}))
measure() { # NAME and words: stops when the time is up; what is measured by then is in the JSON
    local left=$((end - SECONDS))
    if [ "$left" -lt 20 ]; then echo "no time for $1"; return; fi
    timeout "$left" python3 tests/bench/speed --json "$name-$1.json" "${@:2}" 2>&1 | tee "$name-$1.txt" || echo "$1: code $?"
}
# The targets first: refinement 20 x, sampling 10 x, a Minimax step 2 x the plain loop.
measure speed --scale "$scale" --precision "$precision" --variants compiled --only cao2,sampling,minimax,evaluate,recover,relabel,psr
measure digits --scale digits --variants compiled --only cao2,evaluate
