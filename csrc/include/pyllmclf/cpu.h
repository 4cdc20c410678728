// The CPU part of the native core: fp32 tensors, products also in bf16; OpenMP. Raw pointers, sizes, strides and a
// thread count; no torch, no Python.
//
// Rows are contiguous unless the arguments have a stride; strides are in elements. Every op gives the same bits for any
// number of threads: the shape alone determines how work is split, and sums over rows run in a fixed order.
#pragma once

#include <cstdint>

namespace pyllmclf {

// The SIMD build that runs on this machine: "avx512-bf16", "x86-64-v4" (AVX-512), "x86-64-v3" (AVX2 and FMA), or
// "baseline"; or the one that the environment variable PYLLMCLF_SIMD names, which may be "amx-bf16", too. Throws
// std::invalid_argument, as every op does then, if that one doesn't run.
const char* simd_level();

// y = (s - mean) / sqrt(variance + eps) * weight + bias with s = x + residual.
struct LayerNormForward {
  const float* x;
  const float* residual;  // may be null
  const float* weight;    // [width]
  const float* bias;      // [width]
  float* y;               // [rows, width]
  float* sum;             // [rows, width]: s, or null
  float* mean;            // [rows]
  float* rstd;            // [rows]: 1 / sqrt(variance + eps)
  std::int64_t rows, width;
  float eps;
  int threads;
};

struct LayerNormBackward {
  const float* dy;
  const float* dsum;  // gradient of s from its other uses, or null
  const float* s;     // [rows, width]
  const float* weight;
  const float* mean;
  const float* rstd;
  float* ds;       // [rows, width], the gradient of x and of residual; or null
  float* dweight;  // [width], or null
  float* dbias;    // [width], or null
  std::int64_t rows, width;
  int threads;
};

// y = s / sqrt(mean(s^2) + eps) * (offset + weight) with s = x + residual.
struct RmsNormForward {
  const float* x;
  const float* residual;  // may be null
  const float* weight;    // [width]
  float* y;               // [rows, width]
  float* sum;             // [rows, width]: s, or null
  float* rstd;            // [rows]: 1 / sqrt(mean(s^2) + eps)
  std::int64_t rows, width;
  float eps, offset;
  int threads;
};

struct RmsNormBackward {
  const float* dy;
  const float* dsum;  // gradient of s from its other uses, or null
  const float* s;     // [rows, width]
  const float* weight;
  const float* rstd;
  float* ds;       // [rows, width], the gradient of x and of residual; or null
  float* dweight;  // [width], or null
  std::int64_t rows, width;
  float offset;
  int threads;
};

enum class Activation { kSilu, kGeluTanh, kGeluExact };

// y = act(gate) up.
struct GatedForward {
  const float* gate;
  const float* up;
  std::int64_t gate_row, up_row;
  float* y;  // [rows, width]; null: y_bf16 is written instead
  std::uint16_t* y_bf16;
  std::int64_t rows, width;
  Activation activation;
  int threads;
};

struct GatedBackward {
  const float* dy;  // [rows, width]
  const float* gate;
  const float* up;
  std::int64_t gate_row, up_row;
  float* dgate;
  float* dup;
  std::int64_t dgate_row, dup_row;
  std::int64_t rows, width;
  Activation activation;
  int threads;
};

// Turns channels (i, i + half) of each of the first `heads` heads by the row's angles, and copies the `rest` of each
// row. Inverse: by their negatives, which is the backward pass.
struct RotaryRows {
  const float* x;  // [rows, 2 heads half + rest]
  std::int64_t x_row;
  const float* cosine;  // [rows, half]
  const float* sine;    // [rows, half]
  float* y;             // [rows, 2 heads half + rest], contiguous
  std::int64_t rows, heads, half, rest;
  bool inverse;
  int threads;
};

// y = GELU(x + bias), by the tanh formula or exact.
struct GeluForward {
  const float* x;
  const float* bias;  // [width], may be null
  float* y;           // null: y_bf16 is written instead
  std::uint16_t* y_bf16;
  std::int64_t rows, width;
  bool tanh;
  int threads;
};

struct GeluBackward {
  const float* dy;
  const float* x;
  const float* bias;  // may be null
  float* dx;          // may alias dy
  float* dbias;       // [width], or null
  std::int64_t rows, width;
  bool tanh;
  int threads;
};

// y[row] = token[input_ids[row]] + position[positions[row]] + type, then layer norm unless norm_weight is null. Ids and
// positions are not checked.
struct EmbeddingForward {
  const std::int32_t* input_ids;
  const std::int32_t* positions;
  const std::int32_t* types;  // row of `type` for each row; null: row 0 for all
  const float* token;
  const float* position;
  const float* type;         // [types, width], may be null
  const float* norm_weight;  // [width], may be null
  const float* norm_bias;    // [width]
  float* y;
  float* mean;  // [rows], written with norm_weight; as in LayerNormForward
  float* rstd;
  std::int64_t rows, width;
  float eps;
  int threads;
};

// dtable[index[row]] += dy[row], rows in order; a null index means index 0 for every row.
struct EmbeddingBackward {
  const float* dy;
  const std::int32_t* index;
  float* dtable;
  std::int64_t rows, width;
  int threads;
};

// Key and rate of a dropout mask, which pyllmclf/ops/philox.py defines. An element whose word of Philox4x32-10 is at
// least `threshold` is kept and multiplied by `scale`; the others become 0.
struct Dropout {
  std::uint32_t seed, step;
  std::uint32_t stream;     // layer and site
  std::uint32_t threshold;  // p * 2^32
  float scale;              // 1 / (1 - p); 0: no dropout
};

// y = x * mask * scale. The backward pass is the same op applied to dy.
struct DropoutRows {
  const float* x;
  float* y;                         // may alias x
  const std::int64_t* example_ids;  // [rows]
  const std::int32_t* positions;    // [rows]
  std::int64_t rows, width;
  Dropout dropout;
  int threads;
};

// Rows of packed texts, [rows, heads, head_dim], or [rows, kv_heads, head_dim] of keys and values; the last axis is
// contiguous.
struct Heads {
  const float* data;
  std::int64_t row_stride, head_stride;
};
struct MutableHeads {
  float* data;
  std::int64_t row_stride, head_stride;
};

// Requires that a text with queries has keys, and that each query sees at least one key.
struct AttentionShape {
  const std::int32_t* cu_seqlens_q;               // [texts + 1]
  const std::int32_t* cu_seqlens_k;               // [texts + 1]
  const std::int32_t* query_positions;            // [rows_q]; null: all rows of each text are queries, in order
  const std::int64_t* example_ids;                // [texts]; read with dropout only
  std::int64_t texts, heads, kv_heads, head_dim;  // query head h reads key and value head h / (heads / kv_heads)
  float scale;
  bool causal;
  std::int64_t window_left, window_right;  // visible keys on each side of a query's position; -1: all
  bool bf16;                               // whether products round their operands to bf16; sums are fp32
  Dropout dropout;
  int threads;
};

// out = softmax(scale q kᵀ + mask) v and log_sum_exp [heads, rows_q] of the scores of each query.
struct AttentionForward {
  AttentionShape shape;
  Heads q, k, v;
  MutableHeads out;
  float* log_sum_exp;
};

struct AttentionBackward {
  AttentionShape shape;
  Heads q, k, v, out, dout;
  const float* log_sum_exp;
  MutableHeads dq, dk, dv;  // fully written, never read
};

// Terms of attention's scores by the bucket of the distance, row of the key less that of the query.
struct PositionTerms {
  const std::int32_t* buckets;  // [2 most - 1]: of the distances from 1 - most on
  std::int64_t most, count;     // the longest text; the number of buckets
  const float* bias;            // [heads, count], or null
  Heads keys, queries;          // [count, heads, head_dim]; data may be null
};

// out = softmax(S + mask) v with S = scale (q kᵀ + q keys[b]ᵀ + k queries[b]ᵀ) + bias[b], and log_sum_exp [heads,
// rows_q] of the scores of each query. The shape has as many heads of keys as of queries, neither window nor bf16;
// query_positions are rows of the text.
struct RelativeAttentionForward {
  AttentionShape shape;
  PositionTerms terms;
  Heads q, k, v;
  MutableHeads out;
  float* log_sum_exp;
};

struct RelativeAttentionBackward {
  AttentionShape shape;
  PositionTerms terms;
  Heads q, k, v, out, dout;
  const float* log_sum_exp;
  MutableHeads dq, dk, dv;                         // fully written, never read, as are all that follow
  float* dbias;                                    // [heads, count], or null
  MutableHeads dposition_keys, dposition_queries;  // [count, heads, head_dim]; data may be null
};

// y = x Wᵀ + bias for few rows; for many, torch's BLAS is faster.
struct LinearForward {
  const float* x;  // [rows, inputs]
  std::int64_t x_row;
  const float* weight;  // [outputs, inputs]
  const float* bias;    // [outputs], may be null
  float* y;             // [rows, outputs]
  std::int64_t rows, outputs, inputs;
  int threads;
  const std::uint16_t* weight_bf16 = nullptr;  // if not null, read instead of weight
};

// AdamW's settings at one step (Loshchilov and Hutter 2019).
struct AdamW {
  float beta1, beta1_rest, beta2, beta2_rest;  // betaN_rest = 1 - betaN
  float eps;
  float keep;          // 1 - learning rate * weight decay
  float step_size;     // learning rate / (1 - beta1^step)
  float inverse_root;  // 1 / sqrt(1 - beta2^step)
};

// Backward of y = x Wᵀ fused with AdamW: dx = dy W, then a step of W and its moments, all [outputs, inputs], with the
// gradient dyᵀ x. dx uses W as it is before the step.
struct LinearAdamW {
  const float* dy;  // [rows, outputs]
  const float* x;   // [rows, inputs]
  std::int64_t dy_row, x_row;
  float* weight;
  float* exp_avg;
  float* exp_avg_sq;
  float* dx;  // [rows, inputs], or null
  std::int64_t rows, outputs, inputs;
  AdamW adamw;
  int threads;
};

// A part of a bf16 product's inner axis. Pairs of bf16 numbers are read at once: rows of x begin at multiples of 4
// bytes, and where `inputs` is odd, a zero follows each row.
struct Bf16Operands {
  const std::uint16_t* x;  // bf16 [rows, inputs]
  std::int64_t x_row;
  const float* weight;  // [outputs, inputs], or [inputs, outputs] with `transposed`; rounded to bf16 as it is read
  std::int64_t weight_row;
  std::int64_t inputs;                         // 0: no such part
  float scale;                                 // factor of the weight
  const std::uint16_t* weight_bf16 = nullptr;  // if not null, read instead of weight, without the factor
};

// y = x Wᵀ + bias, or x W + bias with `transposed`, in bf16 with fp32 sums. With an adapter, its product is added: the
// low-rank rows times its factor, as one product of inner width inputs + rank.
struct Bf16Linear {
  Bf16Operands base, adapter;
  bool transposed;
  const float* bias;  // [outputs], may be null
  float* y;           // [rows, outputs]
  std::int64_t rows, outputs;
  int threads;
};

// A weight's gradient dyᵀ x in bf16 with fp32 sums: stored, added to what is there, or used for AdamW's step of the
// weight in the same pass.
struct Bf16WeightGradient {
  const std::uint16_t* dy;  // bf16 [rows, outputs]
  const std::uint16_t* x;   // bf16 [rows, inputs]
  std::int64_t dy_row, x_row;
  float* gradient;  // [outputs, inputs], or null with a step
  bool accumulate;
  float* weight;  // [outputs, inputs], or null without a step; so are its moments
  float* exp_avg;
  float* exp_avg_sq;
  std::int64_t rows, outputs, inputs;
  AdamW adamw;
  int threads;
};

// q = round(x factors / scale) with scale = max|x factors| / 127 for each row. Rows that are not finite have the scale
// NaN.
struct QuantizeRows {
  const float* x;        // [rows, width]
  const float* factors;  // [width], may be null: 1
  std::int8_t* q;        // [rows, width]
  float* scales;         // [rows]
  std::int64_t rows, width;
  int threads;
};

// y = product * row_scales * column_scales + bias, in the memory of the product.
struct DequantizeRows {
  float* y;                    // [rows, width]; holds int32 numbers before
  const float* row_scales;     // [rows]
  const float* column_scales;  // [width]
  const float* bias;           // [width], may be null
  std::int64_t rows, width;
  int threads;
};

// Outputs of a packed panel of an int8 weight.
constexpr std::int64_t kInt8Panel = 16;

// y = (q W^T) row_scale column_scales + bias, where q are the rows of x times the factors, rounded as QuantizeRows
// does.
struct Int8Linear {
  const float* x;              // [rows, inputs]
  const float* factors;        // [inputs], may be null: 1
  const std::int16_t* packed;  // W in [panels][pairs of inputs][kInt8Panel][2]; 0 beyond its size
  const float* column_scales;  // [outputs]
  const float* bias;           // [outputs], may be null
  float* y;                    // [rows, outputs]
  std::int64_t rows, inputs, outputs;
  int threads;
};

// The largest head_dim that attention takes.
constexpr std::int64_t kMaxHeadDim = 256;

// The one list of the CPU ops: OP(result, name, arguments). It makes the declarations below, the functions and the
// table of each SIMD build (csrc/cpu/ops.h, csrc/cpu/ops.cpp), their dispatch (csrc/cpu/dispatch.cpp) and the
// registration in Python (csrc/bindings_cpu.cpp). In a SIMD build an op that needs scratch memory returns bool, false
// where allocation fails; the public function throws std::bad_alloc then.
//
// A new CPU op changes three files of the core: its arguments and its line here, csrc/cpu/<op>.cpp (CMakeLists.txt
// finds it), and a wrapper `<name>_` with its checks in csrc/bindings_cpu.cpp. pyllmclf/_C.pyi covers all names.
#define PYLLMCLF_CPU_OPS(OP)                                       \
  OP(void, layer_norm_forward, LayerNormForward)                   \
  OP(bool, layer_norm_backward, LayerNormBackward)                 \
  OP(void, rms_norm_forward, RmsNormForward)                       \
  OP(bool, rms_norm_backward, RmsNormBackward)                     \
  OP(void, gated_forward, GatedForward)                            \
  OP(void, gated_backward, GatedBackward)                          \
  OP(void, rotary_rows, RotaryRows)                                \
  OP(void, gelu_forward, GeluForward)                              \
  OP(bool, gelu_backward, GeluBackward)                            \
  OP(void, embedding_forward, EmbeddingForward)                    \
  OP(void, embedding_backward, EmbeddingBackward)                  \
  OP(void, dropout_rows, DropoutRows)                              \
  OP(bool, attention_forward, AttentionForward)                    \
  OP(bool, attention_backward, AttentionBackward)                  \
  OP(bool, relative_attention_forward, RelativeAttentionForward)   \
  OP(bool, relative_attention_backward, RelativeAttentionBackward) \
  OP(void, linear_forward, LinearForward)                          \
  OP(bool, linear_adamw, LinearAdamW)                              \
  OP(bool, bf16_linear, Bf16Linear)                                \
  OP(bool, bf16_weight_gradient, Bf16WeightGradient)               \
  OP(void, quantize_rows, QuantizeRows)                            \
  OP(void, dequantize_rows, DequantizeRows)                        \
  OP(bool, int8_linear, Int8Linear)

#define PYLLMCLF_DECLARE(result, name, Arguments) void name(const Arguments& args);
PYLLMCLF_CPU_OPS(PYLLMCLF_DECLARE)
#undef PYLLMCLF_DECLARE

}  // namespace pyllmclf
