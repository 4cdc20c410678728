// Chooses the SIMD build once, by what the processor has.
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

namespace {

// Newest first; the processor runs those from the first that it has.
const SimdBuild kBuilds[] = {
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

int first_build() {
  int first = 0;
#ifdef PYLLMCLF_WITH_X86_64_V4
  if (has_v3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    return first;
  }
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

void require_memory(bool had) {
  if (!had) throw std::bad_alloc();
}

}  // namespace

const SimdBuild* simd_builds(int* count) {
  const int first = first_build();
  *count = kCount - first;
  return kBuilds + first;
}

const char* simd_level() { return chosen().name; }

void layer_norm_forward(const LayerNormForward& args) { cpu_ops().layer_norm_forward(args); }
void layer_norm_backward(const LayerNormBackward& args) { require_memory(cpu_ops().layer_norm_backward(args)); }
void gelu_forward(const GeluForward& args) { cpu_ops().gelu_forward(args); }
void gelu_backward(const GeluBackward& args) { require_memory(cpu_ops().gelu_backward(args)); }
void embedding_forward(const EmbeddingForward& args) { cpu_ops().embedding_forward(args); }
void embedding_backward(const EmbeddingBackward& args) { cpu_ops().embedding_backward(args); }
void dropout_rows(const DropoutRows& args) { cpu_ops().dropout_rows(args); }
void attention_forward(const AttentionForward& args) { require_memory(cpu_ops().attention_forward(args)); }
void attention_backward(const AttentionBackward& args) { require_memory(cpu_ops().attention_backward(args)); }
void linear_forward(const LinearForward& args) { cpu_ops().linear_forward(args); }
void linear_adamw(const LinearAdamW& args) { require_memory(cpu_ops().linear_adamw(args)); }

}  // namespace pyllmclf
