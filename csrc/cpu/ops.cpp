// The table of one SIMD build.
#include "ops.h"

namespace pyllmclf {
namespace PYLLMCLF_SIMD {

extern const CpuOps ops = {
    &layer_norm_forward, &layer_norm_backward, &gelu_forward, &gelu_backward,
    &embedding_forward,  &embedding_backward,  &dropout_rows, &attention_forward,
    &attention_backward, &linear_forward,      &linear_adamw,
};

}  // namespace PYLLMCLF_SIMD
}  // namespace pyllmclf
