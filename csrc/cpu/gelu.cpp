// GELU fused with the bias of the layer before it.
#include "activation.h"
#include "ops.h"
#include "pairs.h"
#include "row_sums.h"
#include "simd.h"

namespace pyllmclf {
namespace PYLLMCLF_SIMD {
namespace {

template <bool kTanh>
struct Formula : GeluExact {};
template <>
struct Formula<true> : GeluTanh {};

template <bool kTanh, bool kBias>
void forward(const GeluForward& a) {
  const Output out(a.y, a.rows, a.width);
  parallel_for(a.rows, a.rows * a.width * 4, a.threads, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float* x = a.x + row * a.width;
      for_columns(a.width, [&](int64_t c, int64_t count) {
        const Vec y = Formula<kTanh>::value(kBias ? read(x + c, count) + read(a.bias + c, count) : read(x + c, count));
        const int64_t at = row * a.width + c;
        a.y ? out.write(a.y + at, y, count) : write_halves(a.y_bf16 + at, to_halves(y), count);
      });
    }
    out.finish();
  });
}

template <bool kTanh, bool kBias>
bool backward(const GeluBackward& a) {
  const RowSums sums(a.rows, a.width, a.dbias != nullptr);
  if (sums.failed()) return false;
  const Output out(a.dx, a.rows, a.width);
  parallel_for(sums.blocks(), a.rows * a.width * 4, a.threads, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      float* dbias = sums.start(block);
      for_row_groups(sums.first_row(block), sums.last_row(block), [&](int64_t row, auto rows) {
        for_columns(a.width, [&](int64_t c, int64_t count) {
          const Vec bias = kBias ? read(a.bias + c, count) : Vec{};
          Vec total = {};
          for (int i = 0; i < rows.value; ++i) {
            const int64_t at = (row + i) * a.width + c;
            const Vec dx = read(a.dy + at, count) * Formula<kTanh>::derivative(read(a.x + at, count) + bias);
            out.write(a.dx + at, dx, count);
            total += dx;
          }
          if (dbias) write(dbias + c, read(dbias + c, count) + total, count);
        });
      });
    }
    out.finish();
  });
  if (a.dbias) sums.total(0, a.width, a.dbias);
  return true;
}

}  // namespace

void gelu_forward(const GeluForward& args) {
  if (args.bias) {
    args.tanh ? forward<true, true>(args) : forward<false, true>(args);
  } else {
    args.tanh ? forward<true, false>(args) : forward<false, false>(args);
  }
}

bool gelu_backward(const GeluBackward& args) {
  if (args.bias) return args.tanh ? backward<true, true>(args) : backward<false, true>(args);
  return args.tanh ? backward<true, false>(args) : backward<false, false>(args);
}

}  // namespace PYLLMCLF_SIMD
}  // namespace pyllmclf
