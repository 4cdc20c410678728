// Chooses the SIMD build once, by the features of the processor.
#include <new>

#include "ops.h"

namespace pyllmclf {

namespace baseline {
extern const CpuOps ops;
}
namespace x86_64_v3 {
extern const CpuOps ops;
}
namespace x86_64_v4 {
extern const CpuOps ops;
}
namespace avx512_bf16 {
extern const CpuOps ops;
}

namespace {

// Newest first: a processor that runs one of them runs all that follow.
const SimdBuild kBuilds[] = {
#ifdef PYLLMCLF_WITH_AVX512_BF16
    {"avx512-bf16", &avx512_bf16::ops},
#endif
#ifdef PYLLMCLF_WITH_X86_64_V4
    {"x86-64-v4", &x86_64_v4::ops},
#endif
#ifdef PYLLMCLF_WITH_X86_64_V3
    {"x86-64-v3", &x86_64_v3::ops},
#endif
    {"baseline", &baseline::ops},
};
constexpr int kCount = sizeof(kBuilds) / sizeof(kBuilds[0]);

#ifdef PYLLMCLF_WITH_X86_64_V3
bool has_v3() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
         __builtin_cpu_supports("bmi2");
}
#endif

#ifdef PYLLMCLF_WITH_X86_64_V4
bool has_v4() {
  return has_v3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

int first_build() {
  int first = 0;
#ifdef PYLLMCLF_WITH_AVX512_BF16
  if (has_v4() && __builtin_cpu_supports("avx512bf16")) return first;
  ++first;
#endif
#ifdef PYLLMCLF_WITH_X86_64_V4
  if (has_v4()) return first;
  ++first;
#endif
#ifdef PYLLMCLF_WITH_X86_64_V3
  if (has_v3()) return first;
  ++first;
#endif
  return first;
}

const SimdBuild& chosen() {
  static const SimdBuild& build = kBuilds[first_build()];
  return build;
}

const CpuOps& cpu_ops() { return *chosen().ops; }

template <typename Arguments>
void call(void (*op)(const Arguments&), const Arguments& args) {
  op(args);
}
template <typename Arguments>
void call(bool (*op)(const Arguments&), const Arguments& args) {
  if (!op(args)) throw std::bad_alloc();
}

}  // namespace

const SimdBuild* simd_builds(int* count) {
  const int first = first_build();
  *count = kCount - first;
  return kBuilds + first;
}

const char* simd_level() { return chosen().name; }

#define PYLLMCLF_DISPATCH(result, name, Arguments) \
  void name(const Arguments& args) { call(cpu_ops().name, args); }
PYLLMCLF_CPU_OPS(PYLLMCLF_DISPATCH)
#undef PYLLMCLF_DISPATCH

}  // namespace pyllmclf
