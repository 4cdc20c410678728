// The ops of one SIMD build, and the table of them through which that build is called.
#pragma once

#include "pyllmclf/cpu.h"

namespace pyllmclf {

struct CpuOps {
  // The ones that return bool answer false where memory is not to be had.
  void (*layer_norm_forward)(const LayerNormForward&);
  bool (*layer_norm_backward)(const LayerNormBackward&);
  void (*gelu_forward)(const GeluForward&);
  bool (*gelu_backward)(const GeluBackward&);
  void (*embedding_forward)(const EmbeddingForward&);
  void (*embedding_backward)(const EmbeddingBackward&);
  void (*dropout_rows)(const DropoutRows&);
  bool (*attention_forward)(const AttentionForward&);
  bool (*attention_backward)(const AttentionBackward&);
  void (*linear_forward)(const LinearForward&);
  bool (*linear_adamw)(const LinearAdamW&);
};

struct SimdBuild {
  const char* name;
  const CpuOps* ops;
};

// The builds that this processor runs, fastest first.
const SimdBuild* simd_builds(int* count);

#ifdef PYLLMCLF_SIMD  // in the files of a build
namespace PYLLMCLF_SIMD {

void layer_norm_forward(const LayerNormForward& args);
bool layer_norm_backward(const LayerNormBackward& args);
void gelu_forward(const GeluForward& args);
bool gelu_backward(const GeluBackward& args);
void embedding_forward(const EmbeddingForward& args);
void embedding_backward(const EmbeddingBackward& args);
void dropout_rows(const DropoutRows& args);
bool attention_forward(const AttentionForward& args);
bool attention_backward(const AttentionBackward& args);
void linear_forward(const LinearForward& args);
bool linear_adamw(const LinearAdamW& args);

extern const CpuOps ops;

}  // namespace PYLLMCLF_SIMD
#endif
}  // namespace pyllmclf
