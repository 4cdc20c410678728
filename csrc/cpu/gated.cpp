// y = act(gate) up, the middle of a gated MLP (Shazeer 2020), in one pass.
//
// dgate = dy up act'(gate), dup = dy act(gate).
#include "activation.h"
#include "ops.h"
#include "pairs.h"

namespace pyllmclf {
namespace PYLLMCLF_SIMD {
namespace {

// Work of an element in parallel_for's unit: an exponential and a division.
constexpr int64_t kWork = 4;

template <typename F>
void forward(const GatedForward& a) {
  const Output out(a.y, a.rows, a.width);
  parallel_for(a.rows, a.rows * a.width * kWork, a.threads, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float *gate = a.gate + row * a.gate_row, *up = a.up + row * a.up_row;
      for_columns(a.width, [&](int64_t c, int64_t count) {
        const Vec y = F::value(read(gate + c, count)) * read(up + c, count);
        const int64_t at = row * a.width + c;
        a.y ? out.write(a.y + at, y, count) : write_halves(a.y_bf16 + at, to_halves(y), count);
      });
    }
    out.finish();
  });
}

template <typename F>
void backward(const GatedBackward& a) {
  parallel_for(a.rows, a.rows * a.width * kWork, a.threads, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float *gate = a.gate + row * a.gate_row, *up = a.up + row * a.up_row, *dy = a.dy + row * a.width;
      float *dgate = a.dgate + row * a.dgate_row, *dup = a.dup + row * a.dup_row;
      for_columns(a.width, [&](int64_t c, int64_t count) {
        const Vec x = read(gate + c, count), gradient = read(dy + c, count), factor = read(up + c, count);
        write(dgate + c, gradient * factor * F::derivative(x), count);
        write(dup + c, gradient * F::value(x), count);
      });
    }
  });
}

}  // namespace

void gated_forward(const GatedForward& args) {
  switch (args.activation) {
    case Activation::kSilu:
      return forward<Silu>(args);
    case Activation::kGeluTanh:
      return forward<GeluTanh>(args);
    case Activation::kGeluExact:
      return forward<GeluExact>(args);
  }
}

void gated_backward(const GatedBackward& args) {
  switch (args.activation) {
    case Activation::kSilu:
      return backward<Silu>(args);
    case Activation::kGeluTanh:
      return backward<GeluTanh>(args);
    case Activation::kGeluExact:
      return backward<GeluExact>(args);
  }
}

}  // namespace PYLLMCLF_SIMD
}  // namespace pyllmclf
