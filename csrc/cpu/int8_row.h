// A row of fp32 as integers with a scale of its own: the largest magnitude is 127 steps.
#pragma once

#include "simd.h"

namespace pyllmclf {
namespace PYLLMCLF_SIMD {

// Writes round(x factors / scale) to q, int8 or int16, [width], and the scale, NaN where a number is not finite.
// kFactors: whether `factors` [width] multiply the row.
template <bool kFactors, typename Integer>
void quantize_row(const float* x, const float* factors, int64_t width, Integer* q, float* scale) {
  typedef Integer Integers __attribute__((vector_size(kLanes * sizeof(Integer))));
  constexpr float kLargest = 127.0f;
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
    const Integers integers = __builtin_convertvector(number, Integers);
    memcpy(q + c, &integers, static_cast<size_t>(count) * sizeof(Integer));
  });
}

template <typename Integer>
PYLLMCLF_INLINE void quantize_row(const float* x, const float* factors, int64_t width, Integer* q, float* scale) {
  if (factors) {
    quantize_row<true>(x, factors, width, q, scale);
  } else {
    quantize_row<false>(x, factors, width, q, scale);
  }
}

// The fp32 number of an int32 sum of products.
PYLLMCLF_INLINE Vec dequantized(IntVec sum, float row_scale, Vec column_scales) {
  return __builtin_convertvector(sum, Vec) * (row_scale * column_scales);
}

}  // namespace PYLLMCLF_SIMD
}  // namespace pyllmclf
