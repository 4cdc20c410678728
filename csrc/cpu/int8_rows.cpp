// Rows to int8 with a scale of their own, and products of int8 rows back to fp32.
#include <math.h>

#include "ops.h"
#include "simd.h"

namespace pyllmclf {
namespace PYLLMCLF_SIMD {
namespace {

typedef int8_t Bytes __attribute__((vector_size(kLanes)));

constexpr float kLargest = 127.0f;

// kFactors: whether `factors` multiply the row.
template <bool kFactors>
void quantize_row(const float* x, const float* factors, int64_t width, int8_t* q, float* scale) {
  const auto value_at = [&](int64_t c, int64_t count) {
    return kFactors ? read(x + c, count) * read(factors + c, count) : read(x + c, count);
  };
  Vec most = {}, not_finite = {};
  for_columns(width, [&](int64_t c, int64_t count) {
    const Vec value = value_at(c, count);
    most = max(max(value, -value), most);
    not_finite += value - value;  // 0, or NaN for infinity and NaN, which max() may lose
  });
  *scale = largest(most) / kLargest + sum(not_finite);
  const float inverse = *scale > 0.0f ? 1.0f / *scale : 0.0f;
  for_columns(width, [&](int64_t c, int64_t count) {
    // The low bits of the sum are the rounded number, of at most 127.
    const IntVec number = as_int(value_at(c, count) * inverse + kRound);
    const Bytes bytes = __builtin_convertvector(number, Bytes);
    memcpy(q + c, &bytes, static_cast<size_t>(count));
  });
}

}  // namespace

void quantize_rows(const QuantizeRows& a) {
  parallel_for(a.rows, a.rows * a.width, a.threads, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const auto quantize = a.factors ? quantize_row<true> : quantize_row<false>;
      quantize(a.x + row * a.width, a.factors, a.width, a.q + row * a.width, a.scales + row);
    }
  });
}

void dequantize_rows(const DequantizeRows& a) {
  parallel_for(a.rows, a.rows * a.width, a.threads, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      float* y = a.y + row * a.width;
      const float scale = a.row_scales[row];
      for_columns(a.width, [&](int64_t c, int64_t count) {
        const Vec number = __builtin_convertvector(as_int(read(y + c, count)), Vec);
        const Vec value = number * (scale * read(a.column_scales + c, count));
        write(y + c, a.bias ? value + read(a.bias + c, count) : value, count);
      });
    }
  });
}

}  // namespace PYLLMCLF_SIMD
}  // namespace pyllmclf
