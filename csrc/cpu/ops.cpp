// The table of one SIMD build.
#include "ops.h"

namespace pyllmclf {
namespace PYLLMCLF_SIMD {

#define PYLLMCLF_ADDRESS(result, name, Arguments) &name,
extern const CpuOps ops = {PYLLMCLF_CPU_OPS(PYLLMCLF_ADDRESS)};
#undef PYLLMCLF_ADDRESS

}  // namespace PYLLMCLF_SIMD
}  // namespace pyllmclf
