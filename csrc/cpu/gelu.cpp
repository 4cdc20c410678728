// GELU with the bias of the layer before it (Hendrycks and Gimpel 2016).
//
// tanh: GELU(x) = x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3).
// exact: GELU(x) = x Phi(x); Phi(-|x|) = erfcx(z) exp(-z^2) / 2 with z = |x| / sqrt(2), and the same exponential is the
// normal density that the derivative needs.
#include "ops.h"
#include "simd.h"

namespace pyllmclf {
namespace PYLLMCLF_SIMD {
namespace {

constexpr float kTwoSqrt2OverPi = 1.5957691216057308f;
constexpr float kCubic = 0.044715f;
constexpr float kInvSqrt2 = 0.70710678118654752f;
constexpr float kInvSqrt2Pi = 0.39894228040143268f;
// Columns of a task; its bias gradient stays in registers and first-level cache.
constexpr int64_t kSlab = 256;

// Phi(x) and exp(-x^2 / 2). erfcx(z) = t P(t), t = 1 / (1 + 0.4 z): degree 8, relative error below 2.1e-7 in fp32 for
// z <= 10, fitted to minimise the largest relative error; beyond, the exponential is 0 in fp32 anyway.
PYLLMCLF_INLINE Vec normal_cdf(Vec x, Vec* density) {
  const Vec z = abs(x) * kInvSqrt2;
  const Vec t = 1.0f / (1.0f + 0.4f * z);
  Vec p = splat(0.041253041476011276f);
  p = p * t - 0.14031924307346344f;
  p = p * t + 0.083987295627594f;
  p = p * t + 0.08796432614326477f;
  p = p * t + 0.07975649833679199f;
  p = p * t + 0.19339320063591003f;
  p = p * t + 0.2018875926733017f;
  p = p * t + 0.2264431118965149f;
  p = p * t + 0.22563423216342926f;
  *density = exp(-(z * z));
  const Vec tail = 0.5f * (t * p) * *density;
  return select(x > 0.0f, 1.0f - tail, tail);
}

template <bool kTanh>
PYLLMCLF_INLINE Vec value(Vec x) {
  if (kTanh) return x / (1.0f + exp(-kTwoSqrt2OverPi * x * (1.0f + kCubic * (x * x))));
  Vec density;
  return x * normal_cdf(x, &density);
}

template <bool kTanh>
PYLLMCLF_INLINE Vec derivative(Vec x) {
  if (kTanh) {
    const Vec square = x * x;
    const Vec s = 1.0f / (1.0f + exp(-kTwoSqrt2OverPi * x * (1.0f + kCubic * square)));
    return s + x * s * (1.0f - s) * (kTwoSqrt2OverPi * (1.0f + 3.0f * kCubic * square));
  }
  Vec density;
  const Vec cdf = normal_cdf(x, &density);
  return cdf + x * density * kInvSqrt2Pi;
}

template <bool kTanh>
void forward(const GeluForward& a) {
  // Without a bias the array has no rows.
  const int64_t width = a.bias ? a.width : a.rows * a.width;
  const int64_t rows = a.bias ? a.rows : 1;
  parallel_for(a.bias ? rows : (width + kSlab - 1) / kSlab, rows * width * 4, a.threads,
               [&](int64_t begin, int64_t end) {
                 const int64_t first_row = a.bias ? begin : 0, last_row = a.bias ? end : 1;
                 const int64_t first = a.bias ? 0 : begin * kSlab;
                 const int64_t last = a.bias ? width : (end * kSlab < width ? end * kSlab : width);
                 for (int64_t row = first_row; row < last_row; ++row) {
                   const float* x = a.x + row * width;
                   float* y = a.y + row * width;
                   int64_t c = first;
                   for (; c + kLanes <= last; c += kLanes) {
                     store(y + c, value<kTanh>(a.bias ? load(x + c) + load(a.bias + c) : load(x + c)));
                   }
                   if (const int64_t rest = last - c; rest > 0) {
                     const Vec bias = a.bias ? load_part(a.bias + c, rest) : Vec{};
                     store_part(y + c, value<kTanh>(load_part(x + c, rest) + bias), rest);
                   }
                 }
               });
}

// A task takes some columns of all rows: the bias gradient is summed in the order of the rows.
template <bool kTanh>
void backward(const GeluBackward& a) {
  const bool by_column = a.bias || a.dbias;
  const int64_t width = by_column ? a.width : a.rows * a.width;
  const int64_t rows = by_column ? a.rows : 1;
  const int64_t slabs = (width + kSlab - 1) / kSlab;
  parallel_for(slabs, rows * width * 4, a.threads, [&](int64_t begin, int64_t end) {
    for (int64_t slab = begin; slab < end; ++slab) {
      const int64_t first = slab * kSlab;
      const int64_t columns = width - first < kSlab ? width - first : kSlab;
      const int64_t whole = columns / kLanes * kLanes, rest = columns - whole;
      Vec dbias[kSlab / kLanes] = {};
      for (int64_t row = 0; row < rows; ++row) {
        const int64_t at = row * width + first;
        for (int64_t c = 0; c < whole; c += kLanes) {
          const Vec x = a.bias ? load(a.x + at + c) + load(a.bias + first + c) : load(a.x + at + c);
          const Vec dx = load(a.dy + at + c) * derivative<kTanh>(x);
          store(a.dx + at + c, dx);
          dbias[c / kLanes] += dx;
        }
        if (rest > 0) {
          const Vec bias = a.bias ? load_part(a.bias + first + whole, rest) : Vec{};
          const Vec x = load_part(a.x + at + whole, rest) + bias;
          const Vec dx = load_part(a.dy + at + whole, rest) * derivative<kTanh>(x);
          store_part(a.dx + at + whole, dx, rest);
          dbias[whole / kLanes] += dx;
        }
      }
      if (a.dbias) memcpy(a.dbias + first, dbias, static_cast<size_t>(columns) * sizeof(float));
    }
  });
}

}  // namespace

void gelu_forward(const GeluForward& args) { args.tanh ? forward<true>(args) : forward<false>(args); }
void gelu_backward(const GeluBackward& args) { args.tanh ? backward<true>(args) : backward<false>(args); }

}  // namespace PYLLMCLF_SIMD
}  // namespace pyllmclf
