// Vectors of floats for the files that are compiled once per SIMD build; GCC's and Clang's vector extension.
//
// These files include nothing of the standard library that is inline: the linker could keep the copy that was compiled
// for the newer processor.
#pragma once

#include <stdint.h>
#include <string.h>

#ifndef PYLLMCLF_SIMD
#error "PYLLMCLF_SIMD names the namespace of this SIMD build"
#endif

#define PYLLMCLF_INLINE inline __attribute__((always_inline))

namespace pyllmclf {
namespace PYLLMCLF_SIMD {

#ifdef __AVX2__
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Vec __attribute__((vector_size(kLanes * 4)));
typedef int32_t IntVec __attribute__((vector_size(kLanes * 4)));
typedef float UnalignedVec __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));

PYLLMCLF_INLINE Vec load(const float* p) { return *reinterpret_cast<const UnalignedVec*>(p); }
PYLLMCLF_INLINE void store(float* p, Vec x) { *reinterpret_cast<UnalignedVec*>(p) = x; }
PYLLMCLF_INLINE Vec splat(float x) { return x - Vec{}; }

// The first `count` < kLanes elements, zeros behind them.
PYLLMCLF_INLINE Vec load_part(const float* p, int64_t count) {
  Vec x = {};
  memcpy(&x, p, static_cast<size_t>(count) * sizeof(float));
  return x;
}
PYLLMCLF_INLINE void store_part(float* p, Vec x, int64_t count) {
  memcpy(p, &x, static_cast<size_t>(count) * sizeof(float));
}

PYLLMCLF_INLINE Vec as_float(IntVec x) { return reinterpret_cast<Vec>(x); }
PYLLMCLF_INLINE IntVec as_int(Vec x) { return reinterpret_cast<IntVec>(x); }
PYLLMCLF_INLINE Vec select(IntVec mask, Vec yes, Vec no) { return mask ? yes : no; }
// The second operand where one is NaN.
PYLLMCLF_INLINE Vec min(Vec a, Vec b) { return a < b ? a : b; }
PYLLMCLF_INLINE Vec max(Vec a, Vec b) { return a > b ? a : b; }
PYLLMCLF_INLINE Vec abs(Vec x) { return as_float(as_int(x) & 0x7fffffff); }

PYLLMCLF_INLINE float sum(Vec x) {
  float total = 0.0f;
  for (int i = 0; i < kLanes; ++i) total += x[i];
  return total;
}
PYLLMCLF_INLINE float largest(Vec x) {
  float found = x[0];
  for (int i = 1; i < kLanes; ++i) found = x[i] > found ? x[i] : found;
  return found;
}

// e^x within 2e-7 relative for -87 <= x <= 88; e^-87 (1.6e-38) below, e^88 above, NaN for NaN.
// x = n ln 2 + r with |r| <= ln 2 / 2; e^r = 1 + r + r^2 P(r), P fitted for the smallest error relative to e^r (3e-9).
PYLLMCLF_INLINE Vec exp(Vec x) {
  constexpr float kLog2E = 1.44269504f, kRound = 12582912.0f;  // 1.5 * 2^23: the low bits of the sum hold round(x)
  constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440054690583e-4f;  // Cody and Waite
  x = min(splat(88.0f), max(splat(-87.0f), x));
  const Vec shifted = x * kLog2E + kRound;
  const Vec n = shifted - kRound;
  const Vec r = (x - n * kLn2High) - n * kLn2Low;
  Vec p = splat(0.0013814539415761828f);
  p = p * r + 0.00836874544620514f;
  p = p * r + 0.04166838899254799f;
  p = p * r + 0.1666652113199234f;
  p = p * r + 0.4999999403953552f;
  p = (p * r) * r + (r + 1.0f);
  const IntVec power = as_int(shifted) << 23;  // adds n to the exponent: the higher bits of the sum are shifted out
  return as_float(as_int(p) + power);
}

// Calls body(begin, end) for the parts of [0, count) in parallel; the split doesn't matter to the result.
// Below `grain` work in all one thread does it alone: waking the others takes longer.
template <typename Body>
PYLLMCLF_INLINE void parallel_for(int64_t count, int64_t work, int threads, const Body& body) {
  constexpr int64_t kGrain = 16384;  // elements; about 5 us
  if (threads <= 1 || count <= 1 || work < kGrain) {
    body(int64_t{0}, count);
    return;
  }
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int t = 0; t < threads; ++t) {
    const int64_t begin = count * t / threads, end = count * (t + 1) / threads;
    if (begin < end) body(begin, end);
  }
}

}  // namespace PYLLMCLF_SIMD
}  // namespace pyllmclf
