// Chooses the SIMD build once, by the environment or the features of the processor.
#include <cstdlib>
#include <new>
#include <stdexcept>
#include <string>

#ifdef PYLLMCLF_WITH_AMX_BF16
#include <cpuid.h>
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

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
namespace amx_bf16 {
extern const CpuOps ops;
}

namespace {

constexpr const char* kAmx = "amx-bf16";

// Newest first: a processor that runs one of them runs all that follow.
const SimdBuild kBuilds[] = {
#ifdef PYLLMCLF_WITH_AMX_BF16
    {kAmx, &amx_bf16::ops},
#endif
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

#ifdef PYLLMCLF_WITH_AVX512_BF16
bool has_avx512_bf16() { return has_v4() && __builtin_cpu_supports("avx512bf16"); }
#endif

#ifdef PYLLMCLF_WITH_AMX_BF16
// Whether the processor has the tiles that csrc/cpu/tiles.h uses, and the kernel lets this process use them. Linux
// gives each process their 8 KB of state on request alone; the permission holds for all threads and for forks.
bool has_amx() {
#if defined(__linux__) && defined(__x86_64__)
  constexpr unsigned kBf16 = 1u << 22, kTile = 1u << 24, kTileInformation = 0x1d;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & kBf16) == 0 || (d & kTile) == 0) return false;
  // Palette 1: bytes of a row, tiles, rows of a tile
  if (!__get_cpuid_count(kTileInformation, 1, &a, &b, &c, &d)) return false;
  if ((b & 0xffff) < 64 || b >> 16 < 8 || (c & 0xffff) < 16) return false;
  constexpr long kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  static const bool permitted = syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
  return permitted;
#else
  return false;
#endif
}
#endif

// `amx`: whether the build for AMX is wanted; where it isn't, the kernel is not asked for its permission.
int first_build(bool amx) {
  int first = 0;
  (void)amx;
#ifdef PYLLMCLF_WITH_AMX_BF16
  if (amx && has_avx512_bf16() && has_amx()) return first;
  ++first;
#endif
#ifdef PYLLMCLF_WITH_AVX512_BF16
  if (has_avx512_bf16()) return first;
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

// The build that PYLLMCLF_SIMD names, else the newest one but AMX's, which has never been timed on a processor.
const SimdBuild& choose() {
  const char* variable = std::getenv("PYLLMCLF_SIMD");
  const std::string wanted = variable ? variable : "";
  const int first = first_build(wanted == kAmx);
  if (wanted.empty()) return kBuilds[first];
  std::string names;
  for (int i = first; i < kCount; ++i) {
    if (wanted == kBuilds[i].name) return kBuilds[i];
    names += std::string(names.empty() ? "" : ", ") + kBuilds[i].name;
  }
  throw std::invalid_argument("PYLLMCLF_SIMD='" + wanted + "' doesn't run here; choose one of " + names + ".");
}

const SimdBuild& chosen() {
  static const SimdBuild& build = choose();
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
  const int first = first_build(true);
  *count = kCount - first;
  return kBuilds + first;
}

const char* simd_level() { return chosen().name; }

#define PYLLMCLF_DISPATCH(result, name, Arguments) \
  void name(const Arguments& args) { call(cpu_ops().name, args); }
PYLLMCLF_CPU_OPS(PYLLMCLF_DISPATCH)
#undef PYLLMCLF_DISPATCH

}  // namespace pyllmclf
