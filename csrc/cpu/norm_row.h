// Layer normalisation of one row.
#pragma once

#include <math.h>

#include "simd.h"

namespace pyllmclf {
namespace PYLLMCLF_SIMD {

// Independent partial sums, so that an addition does not wait for the previous one.
constexpr int kChains = 4;

// totals[j] = sum over one row of values[j], which body(first column, count of columns, values) computes for a vector
// of columns; lanes from `count` on are ignored.
template <int kSums, typename Body>
PYLLMCLF_INLINE void row_sums(int64_t width, const Body& body, float* totals) {
  Vec sums[kChains][kSums] = {}, values[kSums];
  int64_t c = 0;
  for (; c + kChains * kLanes <= width; c += kChains * kLanes) {
#pragma GCC unroll 4
    for (int i = 0; i < kChains; ++i) {
      body(c + i * kLanes, static_cast<int64_t>(kLanes), values);
      for (int j = 0; j < kSums; ++j) sums[i][j] += values[j];
    }
  }
  for (; c + kLanes <= width; c += kLanes) {
    body(c, static_cast<int64_t>(kLanes), values);
    for (int j = 0; j < kSums; ++j) sums[0][j] += values[j];
  }
  for (int j = 0; j < kSums; ++j) totals[j] = sum((sums[0][j] + sums[1][j]) + (sums[2][j] + sums[3][j]));
  if (c == width) return;
  body(c, width - c, values);
  for (int j = 0; j < kSums; ++j) {
    for (int64_t i = 0; i < width - c; ++i) totals[j] += values[j][i];
  }
}

// y = (s - mean) rstd weight + bias with s = x + residual for one row; with kResidual, s is stored in sums. y
// may alias x.
template <bool kResidual>
PYLLMCLF_INLINE void normalize_row(const float* x, const float* residual, float* sums, const float* weight,
                                   const float* bias, int64_t width, float eps, const Output& out, float* y,
                                   float* mean_out, float* rstd_out) {
  const float* s = kResidual ? sums : x;
  const float inverse_width = 1.0f / static_cast<float>(width);
  float mean, variance;
  row_sums<1>(
      width,
      [&](int64_t c, int64_t count, Vec* value) {
        *value = read(x + c, count);
        if (!kResidual) return;
        *value += read(residual + c, count);
        write(sums + c, *value, count);
      },
      &mean);
  mean *= inverse_width;
  row_sums<1>(
      width,
      [&](int64_t c, int64_t count, Vec* value) {
        const Vec d = read(s + c, count) - mean;
        *value = d * d;
      },
      &variance);
  variance *= inverse_width;
  const float rstd = 1.0f / sqrtf(variance + eps);
  for_columns(width, [&](int64_t c, int64_t count) {
    const Vec n = (read(s + c, count) - mean) * rstd;
    out.write(y + c, n * read(weight + c, count) + read(bias + c, count), count);
  });
  *mean_out = mean;
  *rstd_out = rstd;
}

}  // namespace PYLLMCLF_SIMD
}  // namespace pyllmclf
