// Activation functions and their derivatives.
//
// gelu, tanh: GELU(x) = x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3) (Hendrycks and Gimpel 2016).
// gelu, exact: GELU(x) = x Phi(x), with the normal distribution Phi and its density phi; GELU'(x) = Phi(x) + x phi(x).
// silu: SiLU(x) = x sigmoid(x).
#pragma once

#include "simd.h"

namespace pyllmclf {
namespace PYLLMCLF_SIMD {

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

// One struct for each activation.
struct GeluTanh {
  PYLLMCLF_INLINE static Vec value(Vec x) { return x * sigmoid(x, x * x); }
  PYLLMCLF_INLINE static Vec derivative(Vec x) {
    const Vec square = x * x;
    // Far from 0, exp2 returns its smallest number instead of 0, and the other factors grow with x: select 0 there.
    const Vec s = select(x < -kNothing, Vec{}, sigmoid(x, square));
    return s + (s * x) * ((1.0f - s) * (kTwoSqrt2OverPi + kTwoSqrt2OverPi * 3.0f * kCubic * square));
  }
};

struct GeluExact {
  PYLLMCLF_INLINE static Vec value(Vec x) { return x * normal_cdf(x); }
  PYLLMCLF_INLINE static Vec derivative(Vec x) {
    const Vec square = x * x;
    const Vec density = select(square > kNothing * kNothing, Vec{}, exp2(-0.5f * kLog2E * square - kLog2Sqrt2Pi));
    return normal_cdf(x) + x * density;
  }
};

struct Silu {
  // 0 where the exponential leaves its range: there x sigmoid(x) is below 1e-35.
  PYLLMCLF_INLINE static Vec value(Vec x) { return x * logistic(x); }
  PYLLMCLF_INLINE static Vec derivative(Vec x) {
    const Vec s = logistic(x);
    return s * (1.0f + x * (1.0f - s));
  }
  PYLLMCLF_INLINE static Vec logistic(Vec x) {
    constexpr float kEnd = 87.0f;
    return select(x < -kEnd, Vec{}, 1.0f / (1.0f + exp2(x * -kLog2E)));
  }
};

}  // namespace PYLLMCLF_SIMD
}  // namespace pyllmclf
