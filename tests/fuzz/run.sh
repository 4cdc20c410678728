#!/usr/bin/env bash
# Every fuzz target under atheris, then the native core's under libFuzzer with sanitizers, SECONDS each.
# Usage: tests/fuzz/run.sh [SECONDS] [TARGET ...]
# Needs atheris (pip install -e '.[fuzz]') and clang++ (CLANGXX). New inputs stay in build/fuzz; a finding ends the run.
set -euo pipefail
cd "$(dirname "$0")/../.."
seconds=${1:-60}
shift || true
native=(fuzz_data)
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(readers text safetensors manifest tokens rows config specification vocabulary "${native[@]}")
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
clang=${CLANGXX:-clang++}
for target in "${targets[@]}"; do
  grown=build/fuzz/$target
  mkdir -p "$grown"
  options=("$grown" "tests/fuzz/corpus/$target" "-max_total_time=$seconds" -max_len=4096 -rss_limit_mb=4096
    -timeout=30 "-artifact_prefix=$grown/" -print_final_stats=1)
  if [[ " ${native[*]} " == *" $target "* ]]; then
    "$clang" -std=c++17 -O1 -g -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined -Icsrc/include \
      "tests/fuzz/$target.cpp" csrc/data/*.cpp -o "build/fuzz/$target.bin"
    run=("build/fuzz/$target.bin")
  else
    run=("${PYTHON:-python3}" tests/fuzz/targets.py "$target")
  fi
  echo "== $target"
  "${run[@]}" "${options[@]}" 2>&1 | tee "build/fuzz/$target.log" | grep -E "^(stat::|==|Done|SUMMARY|  File|[A-Za-z.]*Error)" || true
  if compgen -G "$grown/crash-*" || compgen -G "$grown/timeout-*" || compgen -G "$grown/oom-*"; then
    echo "$target: findings in $grown; see build/fuzz/$target.log" >&2
    exit 1
  fi
done
