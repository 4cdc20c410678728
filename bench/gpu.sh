#!/usr/bin/env bash
# Everything that waits for a GPU, in one go: build, tests, benchmarks.
# Usage: bench/gpu.sh RESULTS_DIR [arguments of pytest for the training benchmarks, as -k step]
# PARTS="build tests-gpu" runs these parts alone, LIMIT=500 ends each after so many seconds; what a benchmark has measured
# until then is kept.
# With TRITON_INTERPRET=1 and no GPU, the parts for Triton run in its interpreter at small sizes, to check this script.
# Needs torch with CUDA, nvcc, setuptools>=77, cmake, ninja, pybind11 and what the package and its extra [test] require
# installed already; no network. With pytest-xdist it takes a fraction of the time.
# PYLLMCLF_DATA_DIR and TIKTOKEN_CACHE_DIR name the data sets and GPT-2's vocabulary.
set -uo pipefail
if [ $# -lt 1 ]; then
  echo "usage: bench/gpu.sh RESULTS_DIR [arguments of pytest]" >&2
  exit 2
fi
results=$(mkdir -p "$1" && cd "$1" && pwd) || exit 2
shift
cd "$(dirname "$0")/.." || exit 2
python=${PYTHON:-python3}
export PYTHONSAFEPATH=1  # the installed package, not the source tree beside us, which has no extension
export PYTHONPATH=$PWD/bench:$PWD/tests${PYTHONPATH:+:$PYTHONPATH}
failed=0
known=" "
beside=()  # most of the time goes into compiling kernels, which pytest-xdist does many at a time
if "$python" -c "import xdist" 2>/dev/null; then
  cores=$(nproc)
  beside=(-n $((cores < 16 ? cores : 16)) --dist load)  # each has some of the GPU's memory
fi

part() { # name, command...: runs a part, keeps its output, goes on after a failure
  local name=$1
  known+="$name "
  shift
  [[ -z ${PARTS:-} || " $PARTS " == *" $name "* ]] || return 0
  echo "== $name"
  if ! timeout --signal=INT "${LIMIT:-0}" "$@" >"$results/$name.txt" 2>&1; then
    failed=1
    echo "   failed:"
    tail -n 15 "$results/$name.txt"
  fi
}

part build "$python" -m pip install --no-build-isolation --no-deps .
part info "$python" -m pyllmclf info
part info-json "$python" -m pyllmclf info --json
# 1. correctness: the ops and whole trainings against the CPU
part tests-gpu "$python" -m pytest -m gpu "${beside[@]}" tests
# 2. speed; what Triton and torch compile for it first, many at a time, so that the time goes into measuring
if [ ${#beside[@]} -gt 0 ] && [ -z "${TRITON_INTERPRET:-}" ]; then
  part compile "$python" -m pytest --benchmark-disable "${beside[@]}" bench/bench_attention.py bench/bench_lora.py \
    -k "not math"
fi
part bench-cuda-ops "$python" -m pytest bench/bench_cuda_ops.py --results "$results" \
  --benchmark-json "$results/bench-cuda-ops-full.json"
part bench-attention "$python" -m pytest bench/bench_attention.py --results "$results" \
  --benchmark-json "$results/bench-attention-full.json"
part bench-lora "$python" -m pytest bench/bench_lora.py --results "$results" \
  --benchmark-json "$results/bench-lora-full.json"
part bench-published "$python" -m pytest bench/bench_published.py --results "$results" \
  --benchmark-json "$results/bench-published-full.json"
part bench-training "$python" -m pytest bench/bench_training.py --results "$results" \
  --benchmark-json "$results/bench-training-full.json" "$@"
# 3. configurations that would be faster here than those of kernels/configs.py
part tune "$python" bench/tune.py
part lora-rules "$python" bench/lora_rules.py
for name in ${PARTS:-}; do
  [[ "$known" == *" $name "* ]] || { echo "there is no part $name; there are$known" >&2; failed=2; }
done
echo "results in $results"
exit $failed
