// Float vectors for the files that are compiled once per SIMD build, by GCC's and Clang's vector extension.
//
// These files include no inline function of the standard library: the linker keeps one copy of it, which may be the one
// compiled for the newer processor. (Compiler intrinsics are always inlined.)
#pragma once

#include <stdint.h>
#include <string.h>
#ifdef __SSE__
#include <immintrin.h>
#endif

#ifndef PYLLMCLF_SIMD
#error "PYLLMCLF_SIMD must name the namespace of this SIMD build"
#endif

#define PYLLMCLF_INLINE inline __attribute__((always_inline))

namespace pyllmclf {
namespace PYLLMCLF_SIMD {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
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

// Loads and stores the first `count` < kLanes elements; the other lanes are loaded as 0.
PYLLMCLF_INLINE Vec load_part(const float* p, int64_t count) {
  Vec x = {};
  memcpy(&x, p, static_cast<size_t>(count) * sizeof(float));
  return x;
}
PYLLMCLF_INLINE void store_part(float* p, Vec x, int64_t count) {
  memcpy(p, &x, static_cast<size_t>(count) * sizeof(float));
}

// Loads and stores any count of elements up to kLanes.
PYLLMCLF_INLINE Vec read(const float* p, int64_t count) { return count == kLanes ? load(p) : load_part(p, count); }
PYLLMCLF_INLINE void write(float* p, Vec x, int64_t count) { count == kLanes ? store(p, x) : store_part(p, x, count); }

// Stores an output. One that is too large to stay in the caches until it is read bypasses them by non-temporal stores,
// which do not read the cache line first.
class Output {
 public:
  // A matrix of contiguous rows.
  Output(const float* data, int64_t rows, int64_t width) {
#if defined(__SSE__)
    constexpr int64_t kCached = 1 << 20;  // elements
    past_ = rows * width > kCached && width % kLanes == 0 && reinterpret_cast<uintptr_t>(data) % sizeof(Vec) == 0;
#else
    (void)data, (void)rows, (void)width;
#endif
  }
  PYLLMCLF_INLINE void write(float* p, Vec x, int64_t count) const {
    if (past_) {
#if defined(__AVX512F__)
      _mm512_stream_ps(p, x);
#elif defined(__AVX2__)
      _mm256_stream_ps(p, x);
#elif defined(__SSE__)
      _mm_stream_ps(p, x);
#endif
    } else {
      count == kLanes ? store(p, x) : store_part(p, x, count);
    }
  }
  // Each thread calls it after its last write.
  PYLLMCLF_INLINE void finish() const {
#if defined(__SSE__)
    if (past_) _mm_sfence();
#endif
  }

 private:
  bool past_ = false;
};

PYLLMCLF_INLINE int64_t divide_up(int64_t x, int64_t step) { return (x + step - 1) / step; }
PYLLMCLF_INLINE int64_t round_up(int64_t x, int64_t step) { return divide_up(x, step) * step; }
PYLLMCLF_INLINE int64_t at_most(int64_t x, int64_t limit) { return x < limit ? x : limit; }
PYLLMCLF_INLINE int64_t at_least(int64_t x, int64_t limit) { return x > limit ? x : limit; }

// Calls body(first column, count of columns) for the vectors of one row.
template <typename Body>
PYLLMCLF_INLINE void for_columns(int64_t width, const Body& body) {
  int64_t c = 0;
  for (; c + kLanes <= width; c += kLanes) body(c, static_cast<int64_t>(kLanes));
  if (c < width) body(c, width - c);
}

PYLLMCLF_INLINE Vec as_float(IntVec x) { return reinterpret_cast<Vec>(x); }
PYLLMCLF_INLINE IntVec as_int(Vec x) { return reinterpret_cast<IntVec>(x); }
PYLLMCLF_INLINE Vec select(IntVec mask, Vec yes, Vec no) { return mask ? yes : no; }
// min and max return the second operand where either is NaN. Intrinsics, because GCC compiles the general form to two
// instructions; masked ones, because GCC warns about its own unmasked 512-bit intrinsics.
#if defined(__AVX512F__)
PYLLMCLF_INLINE Vec min(Vec a, Vec b) { return _mm512_maskz_min_ps(0xffff, a, b); }
PYLLMCLF_INLINE Vec max(Vec a, Vec b) { return _mm512_maskz_max_ps(0xffff, a, b); }
#elif defined(__AVX2__)
PYLLMCLF_INLINE Vec min(Vec a, Vec b) { return _mm256_min_ps(a, b); }
PYLLMCLF_INLINE Vec max(Vec a, Vec b) { return _mm256_max_ps(a, b); }
#elif defined(__SSE__)
PYLLMCLF_INLINE Vec min(Vec a, Vec b) { return _mm_min_ps(a, b); }
PYLLMCLF_INLINE Vec max(Vec a, Vec b) { return _mm_max_ps(a, b); }
#else
PYLLMCLF_INLINE Vec min(Vec a, Vec b) { return a < b ? a : b; }
PYLLMCLF_INLINE Vec max(Vec a, Vec b) { return a > b ? a : b; }
#endif

PYLLMCLF_INLINE Vec sqrt(Vec x) {
#if defined(__AVX512F__)
  return _mm512_maskz_sqrt_ps(0xffff, x);
#elif defined(__AVX2__)
  return _mm256_sqrt_ps(x);
#elif defined(__SSE__)
  return _mm_sqrt_ps(x);
#else
  for (int i = 0; i < kLanes; ++i) x[i] = __builtin_sqrtf(x[i]);
  return x;
#endif
}

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

// 1.5 * 2^23: the low bits of x + kRound hold round(x).
constexpr float kRound = 12582912.0f;

// 2^x within 2e-7 relative for -126 <= x <= 126; clamped to that range, NaN for NaN.
// x = n + r with |r| <= 1/2; 2^r by a minimax polynomial of relative error 9e-8, 1 at 0.
PYLLMCLF_INLINE Vec exp2(Vec x) {
  x = min(splat(126.0f), max(splat(-126.0f), x));
  const Vec shifted = x + kRound;
  const Vec r = x - (shifted - kRound);
  Vec p = splat(0.001326472719721332f);
  p = p * r + 0.009671512639649684f;
  p = p * r + 0.05550733743251916f;
  p = p * r + 0.24022242085375015f;
  p = p * r + 0.6931469775991641f;
  p = p * r + 1.0f;
  const IntVec power = as_int(shifted) << 23;  // adds n to the exponent: the higher bits of the sum are shifted out
  return as_float(as_int(p) + power);
}

// e^x within 2e-7 relative for -87 <= x <= 88; e^-87 (1.6e-38) below, e^88 above, NaN for NaN.
// x = n ln 2 + r with |r| <= ln 2 / 2; e^r = 1 + r + r^2 P(r), P a minimax fit of error 3e-9 relative to e^r.
PYLLMCLF_INLINE Vec exp(Vec x) {
  constexpr float kLog2E = 1.44269504f;
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
  return as_float(as_int(p) + (as_int(shifted) << 23));
}

// Transposes a square of kTurned x kTurned elements: to[d][j] = from[j][d].
constexpr int64_t kTurned = 4;
PYLLMCLF_INLINE void turn(const float* from, int64_t from_row, float* to, int64_t to_row) {
#if defined(__clang__) || __GNUC__ >= 12
  typedef float Quad __attribute__((vector_size(16)));
  typedef float UnalignedQuad __attribute__((vector_size(16), aligned(4), may_alias));
  Quad rows[kTurned];
  for (int64_t j = 0; j < kTurned; ++j) rows[j] = *reinterpret_cast<const UnalignedQuad*>(from + j * from_row);
  const Quad low01 = __builtin_shufflevector(rows[0], rows[1], 0, 4, 1, 5);
  const Quad high01 = __builtin_shufflevector(rows[0], rows[1], 2, 6, 3, 7);
  const Quad low23 = __builtin_shufflevector(rows[2], rows[3], 0, 4, 1, 5);
  const Quad high23 = __builtin_shufflevector(rows[2], rows[3], 2, 6, 3, 7);
  const Quad turned[kTurned] = {
      __builtin_shufflevector(low01, low23, 0, 1, 4, 5), __builtin_shufflevector(low01, low23, 2, 3, 6, 7),
      __builtin_shufflevector(high01, high23, 0, 1, 4, 5), __builtin_shufflevector(high01, high23, 2, 3, 6, 7)};
  for (int64_t d = 0; d < kTurned; ++d) *reinterpret_cast<UnalignedQuad*>(to + d * to_row) = turned[d];
#else
  for (int64_t j = 0; j < kTurned; ++j) {
    for (int64_t d = 0; d < kTurned; ++d) to[d * to_row + j] = from[j * from_row + d];
  }
#endif
}

// Calls body(begin, end) for the parts of [0, count) in parallel; the result must not depend on the split. Below kGrain
// work in total it runs on one thread, because waking the others takes longer.
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
