#!/usr/bin/env bash
# Runs the native tests under AddressSanitizer and UndefinedBehaviorSanitizer, then under ThreadSanitizer.
# Usage: tests/native/sanitize.sh [BUILD_DIR]
# Needs cmake, ninja, a C++ compiler (CXX) and clang++ (CLANGXX) with libomp and its Archer library: with GCC's OpenMP
# runtime, which is not instrumented, ThreadSanitizer reports races in correct programs.
set -euo pipefail
cd "$(dirname "$0")/../.."
build=${1:-build/sanitize}
clang=${CLANGXX:-clang++}
archer=$(find / -name 'libarcher.so' -path '*llvm*' -print -quit 2>/dev/null || true)
command -v "$clang" >/dev/null || { echo "$clang is missing: install clang and libomp, or name it in CLANGXX" >&2; exit 2; }
[ -n "$archer" ] || { echo "libarcher.so is missing: install LLVM's libomp" >&2; exit 2; }

run() { # name, compiler, sanitizers: configures, builds and runs the tests
  local folder=$build/$1
  cmake -S . -B "$folder" -GNinja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCMAKE_CXX_COMPILER="$2" \
    -DPYLLMCLF_EXTENSION=OFF -DPYLLMCLF_TESTS=ON -DPYLLMCLF_SANITIZE="$3" >/dev/null
  cmake --build "$folder"
  ctest --test-dir "$folder" --output-on-failure
}

export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
run address "${CXX:-c++}" address,undefined
export OMP_TOOL_LIBRARIES=$archer TSAN_OPTIONS="ignore_noninstrumented_modules=1 halt_on_error=1"
run thread "$clang" thread
