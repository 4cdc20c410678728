#!/usr/bin/env bash
# Runs everything that needs a GPU: build, tests, benchmarks.
# Usage: bench/gpu.sh RESULTS_DIR [pytest arguments for the training benchmarks, such as -k step]
# PARTS="build tests-gpu" runs these parts alone. LIMIT=500 ends each part after 500 seconds; a benchmark's results until
# then are kept.
# With TRITON_INTERPRET=1 and no GPU, the parts for Triton run in its interpreter at small sizes, to check this script.
# Needs torch with CUDA, nvcc, setuptools>=77, cmake, ninja, pybind11 and the requirements of the package and of its extra
# [test], all installed beforehand; no network. With pytest-xdist it takes a fraction of the time.
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
export PYTHONSAFEPATH=1  # imports the installed package, not the source tree, which has no extension
export PYTHONPATH=$PWD/bench:$PWD/tests${PYTHONPATH:+:$PYTHONPATH}
failed=0
known=" "
workers=()  # pytest-xdist compiles kernels in parallel, which takes most of the time
if "$python" -c "import xdist" 2>/dev/null; then
  cores=$(nproc)
  workers=(-n $((cores < 16 ? cores : 16)) --dist load)  # each worker takes some of the GPU's memory
fi

part() { # name, command...: runs a part and keeps its output; a failure does not stop the script
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
part tests-gpu "$python" -m pytest -m gpu "${workers[@]}" tests
# 2. speed; compiles the kernels of Triton and torch first, in parallel, so that the benchmarks only measure
if [ ${#workers[@]} -gt 0 ] && [ -z "${TRITON_INTERPRET:-}" ]; then
  part compile "$python" -m pytest --benchmark-disable "${workers[@]}" bench/bench_attention.py bench/bench_lora.py \
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
# 3. configurations that are faster on this GPU than those of kernels/configs.py
part tune "$python" bench/tune.py
part lora-rules "$python" bench/lora_rules.py
for name in ${PARTS:-}; do
  [[ "$known" == *" $name "* ]] || { echo "there is no part $name; there are$known" >&2; failed=2; }
done
echo "results in $results"
exit $failed
