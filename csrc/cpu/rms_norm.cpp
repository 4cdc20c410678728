// Root mean square normalisation fused with the residual addition (Zhang and Sennrich 2019).
//
// With s = x + residual, n = s rstd and rstd = 1 / sqrt(mean(s^2) + eps):  y = n (offset + weight),
// ds = rstd (g - n mean(g n)) + dsum with g = dy (offset + weight);  dweight = sum of dy n over rows.
#include "norm_row.h"
#include "ops.h"
#include "row_sums.h"

namespace pyllmclf {
namespace PYLLMCLF_SIMD {
namespace {

template <bool kResidual>
void forward_row(const RmsNormForward& a, int64_t row, const Output& out) {
  const int64_t at = row * a.width;
  const float* s = kResidual ? a.sum + at : a.x + at;
  float square;
  row_sums<1>(
      a.width,
      [&](int64_t c, int64_t count, Vec* value) {
        Vec x = read(a.x + at + c, count);
        if (kResidual) {
          x += read(a.residual + at + c, count);
          write(a.sum + at + c, x, count);
        }
        *value = x * x;
      },
      &square);
  const float rstd = 1.0f / sqrtf(square / static_cast<float>(a.width) + a.eps);
  for_columns(a.width, [&](int64_t c, int64_t count) {
    out.write(a.y + at + c, read(s + c, count) * rstd * (a.offset + read(a.weight + c, count)), count);
  });
  a.rstd[row] = rstd;
}

// Backward pass of the rows [row, row + kRows). dweight [width] holds the sums over this block of rows, or is null.
template <bool kSum, int kRows>
void backward_rows(const RmsNormBackward& a, int64_t row, float* dweight, const Output& out) {
  float means[kRows] = {};  // means of g n
  for (int i = 0; a.ds && i < kRows; ++i) {
    const float* dy = a.dy + (row + i) * a.width;
    const float* s = a.s + (row + i) * a.width;
    row_sums<1>(
        a.width,
        [&](int64_t c, int64_t count, Vec* value) {
          *value = read(dy + c, count) * (a.offset + read(a.weight + c, count)) * read(s + c, count);
        },
        &means[i]);
    means[i] *= a.rstd[row + i] / static_cast<float>(a.width);
  }
  for_columns(a.width, [&](int64_t c, int64_t count) {
    const Vec factor = a.offset + read(a.weight + c, count);
    Vec total = {};
    for (int i = 0; i < kRows; ++i) {
      const int64_t at = (row + i) * a.width + c;
      const Vec n = read(a.s + at, count) * a.rstd[row + i], dy = read(a.dy + at, count);
      if (a.ds) {
        const Vec ds = a.rstd[row + i] * (dy * factor - n * means[i]);
        out.write(a.ds + at, kSum ? ds + read(a.dsum + at, count) : ds, count);
      }
      total += dy * n;
    }
    if (dweight) write(dweight + c, read(dweight + c, count) + total, count);
  });
}

template <bool kSum>
bool backward(const RmsNormBackward& a) {
  const RowSums sums(a.rows, a.width, a.dweight != nullptr);
  if (sums.failed()) return false;
  const Output out(a.ds, a.rows, a.width);
  parallel_for(sums.blocks(), a.rows * a.width, a.threads, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      float* dweight = sums.start(block);
      for_row_groups(sums.first_row(block), sums.last_row(block),
                     [&](int64_t row, auto rows) { backward_rows<kSum, rows.value>(a, row, dweight, out); });
    }
    out.finish();
  });
  if (a.dweight) sums.total(0, a.width, a.dweight);
  return true;
}

}  // namespace

void rms_norm_forward(const RmsNormForward& a) {
  const Output out(a.y, a.rows, a.width);
  parallel_for(a.rows, a.rows * a.width, a.threads, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      a.residual ? forward_row<true>(a, row, out) : forward_row<false>(a, row, out);
    }
    out.finish();
  });
}

bool rms_norm_backward(const RmsNormBackward& args) { return args.dsum ? backward<true>(args) : backward<false>(args); }

}  // namespace PYLLMCLF_SIMD
}  // namespace pyllmclf
