#include "pyllmclf/cpu.h"

namespace pyllmclf {

const char* simd_level() {
#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2")) {
    return "x86-64-v3";
  }
#endif
  return "baseline";
}

}  // namespace pyllmclf
