// The ops of one SIMD build and their table, made from the list in pyllmclf/cpu.h.
#pragma once

#include "pyllmclf/cpu.h"

namespace pyllmclf {

// One pointer per op. An op that returns bool returns false where allocation of its scratch memory fails.
struct CpuOps {
#define PYLLMCLF_POINTER(result, name, Arguments) result (*name)(const Arguments&);
  PYLLMCLF_CPU_OPS(PYLLMCLF_POINTER)
#undef PYLLMCLF_POINTER
};

struct SimdBuild {
  const char* name;
  const CpuOps* ops;
};

// The builds that this processor runs, newest first.
const SimdBuild* simd_builds(int* count);

#ifdef PYLLMCLF_SIMD  // defined where a file is compiled for a SIMD build
namespace PYLLMCLF_SIMD {

#define PYLLMCLF_DECLARE(result, name, Arguments) result name(const Arguments& args);
PYLLMCLF_CPU_OPS(PYLLMCLF_DECLARE)
#undef PYLLMCLF_DECLARE

extern const CpuOps ops;

}  // namespace PYLLMCLF_SIMD
#endif
}  // namespace pyllmclf
