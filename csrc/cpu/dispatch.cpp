// Chooses the SIMD build once, by what the processor has.
#include <new>

#include "ops.h"

namespace pyllmclf {

namespace baseline {
extern const CpuOps ops;
}
#ifdef PYLLMCLF_WITH_X86_64_V3
namespace x86_64_v3 {
extern const CpuOps ops;
}
#endif

namespace {

bool has_v3() {
#ifdef PYLLMCLF_WITH_X86_64_V3
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
#else
  return false;
#endif
}

const CpuOps& choose() {
#ifdef PYLLMCLF_WITH_X86_64_V3
  if (has_v3()) return x86_64_v3::ops;
#endif
  return baseline::ops;
}

const CpuOps& cpu_ops() {
  static const CpuOps& chosen = choose();
  return chosen;
}

}  // namespace

const char* simd_level() { return has_v3() ? "x86-64-v3" : "baseline"; }

void layer_norm_forward(const LayerNormForward& args) { cpu_ops().layer_norm_forward(args); }
void layer_norm_backward(const LayerNormBackward& args) {
  if (!cpu_ops().layer_norm_backward(args)) throw std::bad_alloc();
}
void gelu_forward(const GeluForward& args) { cpu_ops().gelu_forward(args); }
void gelu_backward(const GeluBackward& args) { cpu_ops().gelu_backward(args); }
void embedding_forward(const EmbeddingForward& args) { cpu_ops().embedding_forward(args); }
void embedding_backward(const EmbeddingBackward& args) { cpu_ops().embedding_backward(args); }
void dropout_rows(const DropoutRows& args) { cpu_ops().dropout_rows(args); }

void attention_forward(const AttentionForward& args) {
  if (!cpu_ops().attention_forward(args)) throw std::bad_alloc();
}

void attention_backward(const AttentionBackward& args) {
  if (!cpu_ops().attention_backward(args)) throw std::bad_alloc();
}

}  // namespace pyllmclf
