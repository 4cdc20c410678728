// Layer normalisation fused with the residual addition (Ba et al. 2016).
//
// With s = x + residual and n = (s - mean) rstd:  y = n weight + bias,
// ds = rstd (g - mean(g) - n mean(g n)) + dsum with g = dy weight;  dweight = sum of dy n, dbias = sum of dy over rows.
#include "norm_row.h"
#include "ops.h"
#include "row_sums.h"
#include "simd.h"

namespace pyllmclf {
namespace PYLLMCLF_SIMD {
namespace {

// Backward pass of the rows [row, row + kRows). dparams [2 width] holds the sums of dweight and dbias over this block
// of rows; null without kParams.
template <bool kSum, bool kParams, int kRows>
void backward_rows(const LayerNormBackward& a, int64_t row, float* dparams, const Output& out) {
  const float inverse_width = 1.0f / static_cast<float>(a.width);
  float means[kRows][2] = {};  // means of g and of g n
  for (int i = 0; i < kRows; ++i) {
    const float* dy = a.dy + (row + i) * a.width;
    const float* s = a.s + (row + i) * a.width;
    const float mean = a.mean[row + i], rstd = a.rstd[row + i];
    if (!a.ds) break;
    row_sums<2>(
        a.width,
        [&](int64_t c, int64_t count, Vec* values) {
          values[0] = read(dy + c, count) * read(a.weight + c, count);
          values[1] = values[0] * ((read(s + c, count) - mean) * rstd);
        },
        means[i]);
    means[i][0] *= inverse_width;
    means[i][1] *= inverse_width;
  }
  for_columns(a.width, [&](int64_t c, int64_t count) {
    const Vec weight = read(a.weight + c, count);
    Vec dweight = {}, dbias = {};
    for (int i = 0; i < kRows; ++i) {
      const int64_t at = (row + i) * a.width + c;
      const Vec n = (read(a.s + at, count) - a.mean[row + i]) * a.rstd[row + i], dy = read(a.dy + at, count);
      if (a.ds) {
        const Vec ds = a.rstd[row + i] * (dy * weight - means[i][0] - n * means[i][1]);
        out.write(a.ds + at, kSum ? ds + read(a.dsum + at, count) : ds, count);
      }
      dweight += dy * n;
      dbias += dy;
    }
    if (!kParams) return;
    write(dparams + c, read(dparams + c, count) + dweight, count);
    write(dparams + a.width + c, read(dparams + a.width + c, count) + dbias, count);
  });
}

template <bool kSum, bool kParams>
bool backward(const LayerNormBackward& a) {
  const RowSums sums(a.rows, 2 * a.width, kParams);
  if (sums.failed()) return false;
  const Output out(a.ds, a.rows, a.width);
  parallel_for(sums.blocks(), a.rows * a.width, a.threads, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      float* dparams = sums.start(block);
      for_row_groups(sums.first_row(block), sums.last_row(block),
                     [&](int64_t row, auto rows) { backward_rows<kSum, kParams, rows.value>(a, row, dparams, out); });
    }
    out.finish();
  });
  if (a.dweight) sums.total(0, a.width, a.dweight);
  if (a.dbias) sums.total(a.width, a.width, a.dbias);
  return true;
}

}  // namespace

void layer_norm_forward(const LayerNormForward& a) {
  const Output out(a.y, a.rows, a.width);
  parallel_for(a.rows, a.rows * a.width, a.threads, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t at = row * a.width;
      if (a.residual) {
        normalize_row<true>(a.x + at, a.residual + at, a.sum + at, a.weight, a.bias, a.width, a.eps, out, a.y + at,
                            a.mean + row, a.rstd + row);
      } else {
        normalize_row<false>(a.x + at, nullptr, nullptr, a.weight, a.bias, a.width, a.eps, out, a.y + at, a.mean + row,
                             a.rstd + row);
      }
    }
    out.finish();
  });
}

bool layer_norm_backward(const LayerNormBackward& args) {
  if (args.dweight || args.dbias) return args.dsum ? backward<true, true>(args) : backward<false, true>(args);
  return args.dsum ? backward<true, false>(args) : backward<false, false>(args);
}

}  // namespace PYLLMCLF_SIMD
}  // namespace pyllmclf
