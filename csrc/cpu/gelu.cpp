// GELU fused with the bias of the layer before it (Hendrycks and Gimpel 2016).
//
// tanh: GELU(x) = x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3).
// exact: GELU(x) = x Phi(x), with the normal distribution Phi and its density phi; GELU'(x) = Phi(x) + x phi(x).
#include "ops.h"
#include "pairs.h"
#include "row_sums.h"
#include "simd.h"

namespace pyllmclf {
namespace PYLLMCLF_SIMD {
namespace {

constexpr float kTwoSqrt2OverPi = 1.5957691216057308f;  // 2 sqrt(2 / pi)
constexpr float kCubic = 0.044715f;
constexpr float kLog2E = 1.4426950408889634f;
constexpr float kLog2Sqrt2Pi = 1.3257480647361593f;

// From |x| = 14 on, GELU is 0 or x and its derivative 0 or 1 in fp32, by both formulas.
constexpr float kNothing = 14.0f;

// sigmoid(2 u); square = x^2.
PYLLMCLF_INLINE Vec sigmoid(Vec x, Vec square) {
  const Vec minus_two_u = x * (-kTwoSqrt2OverPi * kLog2E - kTwoSqrt2OverPi * kLog2E * kCubic * square);
  return 1.0f / (1.0f + exp2(minus_two_u));
}

// Phi(x) = 1/2 + x P(x^2) / Q(x^2), a minimax fit on |x| <= 5.5 with an absolute error of 2.1e-7 in fp32.
PYLLMCLF_INLINE Vec normal_cdf(Vec x) {
  constexpr float kEnd = 5.5f;  // Phi(-5.5) = 2e-8
  const Vec inside = min(splat(kEnd), max(splat(-kEnd), x));
  const Vec square = inside * inside;
  Vec p = splat(2.2749240713437757e-08f);
  p = p * square + 6.351793217618251e-06f;
  p = p * square + 0.00016880885232239962f;
  p = p * square + 0.004677157383412123f;
  p = p * square + 0.033851221203804016f;
  p = p * square + 0.398942232131958f;
  Vec q = splat(1.1974760809607687e-06f);
  q = q * square + 7.364097837125883e-05f;
  q = q * square + 0.0018843516008928418f;
  q = q * square + 0.028645014390349388f;
  q = q * square + 0.2515183389186859f;
  q = q * square + 1.0f;
  return select(x < -kEnd, Vec{}, inside * p / q + 0.5f);
}

template <bool kTanh>
PYLLMCLF_INLINE Vec value(Vec x) {
  return x * (kTanh ? sigmoid(x, x * x) : normal_cdf(x));
}

template <bool kTanh>
PYLLMCLF_INLINE Vec derivative(Vec x) {
  const Vec square = x * x;
  // Far from 0, exp2 returns its smallest number instead of 0, and the other factors grow with x: select 0 there.
  if (kTanh) {
    const Vec s = select(x < -kNothing, Vec{}, sigmoid(x, square));
    return s + (s * x) * ((1.0f - s) * (kTwoSqrt2OverPi + kTwoSqrt2OverPi * 3.0f * kCubic * square));
  }
  const Vec density = select(square > kNothing * kNothing, Vec{}, exp2(-0.5f * kLog2E * square - kLog2Sqrt2Pi));
  return normal_cdf(x) + x * density;
}

template <bool kTanh, bool kBias>
void forward(const GeluForward& a) {
  const Output out(a.y, a.rows, a.width);
  parallel_for(a.rows, a.rows * a.width * 4, a.threads, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float* x = a.x + row * a.width;
      for_columns(a.width, [&](int64_t c, int64_t count) {
        const Vec y = value<kTanh>(kBias ? read(x + c, count) + read(a.bias + c, count) : read(x + c, count));
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
            const Vec dx = read(a.dy + at, count) * derivative<kTanh>(read(a.x + at, count) + bias);
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
