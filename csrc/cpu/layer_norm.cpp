// Layer normalisation after the residual addition (Ba et al. 2016).
//
// With s = x + residual and n = (s - mean) rstd:  y = n weight + bias,
// ds = rstd (g - mean(g) - n mean(g n)) + dsum with g = dy weight;  dweight = sum of dy n, dbias = sum of dy over rows.
#include <math.h>
#include <stdlib.h>

#include "ops.h"
#include "simd.h"

namespace pyllmclf {
namespace PYLLMCLF_SIMD {
namespace {

// Rows whose parameter gradients are summed before they are added to those of other rows.
constexpr int64_t kRowBlock = 32;

// body(vector at column c, count of valid lanes) over one row; a lane that is not valid reads as 0.
template <typename Body>
PYLLMCLF_INLINE void for_columns(int64_t width, const Body& body) {
  int64_t c = 0;
  for (; c + kLanes <= width; c += kLanes) body(c, static_cast<int64_t>(kLanes));
  if (c < width) body(c, width - c);
}
PYLLMCLF_INLINE Vec read(const float* p, int64_t count) { return count == kLanes ? load(p) : load_part(p, count); }
PYLLMCLF_INLINE void write(float* p, Vec x, int64_t count) { count == kLanes ? store(p, x) : store_part(p, x, count); }

void forward_row(const LayerNormForward& a, int64_t row) {
  const float* x = a.x + row * a.width;
  const float* residual = a.residual ? a.residual + row * a.width : nullptr;
  float* y = a.y + row * a.width;
  float* s = a.sum ? a.sum + row * a.width : y;  // y is free until the end
  const float inverse_width = 1.0f / static_cast<float>(a.width);
  Vec total = {};
  for_columns(a.width, [&](int64_t c, int64_t count) {
    const Vec value = residual ? read(x + c, count) + read(residual + c, count) : read(x + c, count);
    if (residual) write(s + c, value, count);
    total += value;
  });
  if (!residual) s = const_cast<float*>(x);  // only read from here on
  const float mean = sum(total) * inverse_width;
  Vec squares = {};
  for_columns(a.width, [&](int64_t c, int64_t count) {
    Vec d = read(s + c, count) - mean;
    if (count < kLanes) {
      Vec valid = {};
      for (int64_t i = 0; i < count; ++i) valid[i] = 1.0f;
      d *= valid;
    }
    squares += d * d;
  });
  const float rstd = 1.0f / sqrtf(sum(squares) * inverse_width + a.eps);
  for_columns(a.width, [&](int64_t c, int64_t count) {
    const Vec n = (read(s + c, count) - mean) * rstd;
    write(y + c, n * read(a.weight + c, count) + read(a.bias + c, count), count);
  });
  a.mean[row] = mean;
  a.rstd[row] = rstd;
}

// dparams: sums of this block's rows, [2 width], or null.
void backward_row(const LayerNormBackward& a, int64_t row, float* dparams) {
  const float* dy = a.dy + row * a.width;
  const float* s = a.s + row * a.width;
  const float mean = a.mean[row], rstd = a.rstd[row];
  Vec total_g = {}, total_gn = {};
  for_columns(a.width, [&](int64_t c, int64_t count) {
    const Vec n = (read(s + c, count) - mean) * rstd, d = read(dy + c, count);
    const Vec g = d * read(a.weight + c, count);
    total_g += g;
    total_gn += g * n;
    if (dparams) {
      write(dparams + c, read(dparams + c, count) + d * n, count);
      write(dparams + a.width + c, read(dparams + a.width + c, count) + d, count);
    }
  });
  if (!a.ds) return;
  const float inverse_width = 1.0f / static_cast<float>(a.width);
  const float mean_g = sum(total_g) * inverse_width, mean_gn = sum(total_gn) * inverse_width;
  const float* dsum = a.dsum ? a.dsum + row * a.width : nullptr;
  float* ds = a.ds + row * a.width;
  for_columns(a.width, [&](int64_t c, int64_t count) {
    const Vec n = (read(s + c, count) - mean) * rstd;
    const Vec g = read(dy + c, count) * read(a.weight + c, count);
    const Vec value = rstd * (g - mean_g - n * mean_gn);
    write(ds + c, dsum ? value + read(dsum + c, count) : value, count);
  });
}

}  // namespace

void layer_norm_forward(const LayerNormForward& a) {
  parallel_for(a.rows, a.rows * a.width, a.threads, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) forward_row(a, row);
  });
}

bool layer_norm_backward(const LayerNormBackward& a) {
  const int64_t blocks = (a.rows + kRowBlock - 1) / kRowBlock;
  const bool params = a.dweight || a.dbias;
  const int64_t stride = 2 * a.width;
  float* partial = nullptr;
  if (params) {
    // One more than needed: calloc(0) may return null.
    partial = static_cast<float*>(calloc(static_cast<size_t>(blocks * stride + 1), sizeof(float)));
    if (!partial) return false;
  }
  parallel_for(blocks, a.rows * a.width, a.threads, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      const int64_t last = (block + 1) * kRowBlock < a.rows ? (block + 1) * kRowBlock : a.rows;
      for (int64_t row = block * kRowBlock; row < last; ++row) {
        backward_row(a, row, params ? partial + block * stride : nullptr);
      }
    }
  });
  if (params) {
    for (int64_t c = 0; c < stride; ++c) {
      float* target = c < a.width ? a.dweight : a.dbias;
      if (!target) continue;
      float total = 0.0f;
      for (int64_t block = 0; block < blocks; ++block) total += partial[block * stride + c];
      target[c < a.width ? c : c - a.width] = total;
    }
    free(partial);
  }
  return true;
}

}  // namespace PYLLMCLF_SIMD
}  // namespace pyllmclf
