// Matrix products of bf16 numbers with fp32 sums, on pairs: two neighbours along the inner axis in 32 bits, the first in
// the low half. Processors with AVX512-BF16 multiply and add a pair of each lane in one instruction; elsewhere the two
// halves are widened, which is exact but slow.
#pragma once

#include "simd.h"

namespace pyllmclf {
namespace PYLLMCLF_SIMD {

// Columns of a panel of B. A tile uses 29 of 32 registers: 6 x 4 sums, four vectors of B and one broadcast of A.
constexpr int kPanelVecs = 4;
constexpr int64_t kPanel = kPanelVecs * kLanes;
constexpr int kPairRows = 6;

typedef IntVec UnalignedIntVec __attribute__((aligned(4), may_alias));
PYLLMCLF_INLINE IntVec load_pairs(const int32_t* p) { return *reinterpret_cast<const UnalignedIntVec*>(p); }
PYLLMCLF_INLINE void store_pairs(int32_t* p, IntVec x) { *reinterpret_cast<UnalignedIntVec*>(p) = x; }

// bf16(low) | bf16(high) << 16 for each lane, rounded to nearest even; NaN stays NaN.
PYLLMCLF_INLINE IntVec to_pairs(Vec low, Vec high) {
#if defined(__AVX512BF16__)
  const IntVec both = reinterpret_cast<IntVec>(_mm512_cvtne2ps_pbh(high, low));  // 16 of low, then 16 of high
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21,
                                         5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return reinterpret_cast<IntVec>(_mm512_permutexvar_epi16(order, reinterpret_cast<__m512i>(both)));
#else
  typedef uint32_t Bits __attribute__((vector_size(kLanes * 4)));
  const auto rounded = [](Vec x) {
    const Bits bits = reinterpret_cast<Bits>(x);
    const Bits up = bits + 0x7fff + ((bits >> 16) & 1);
    return reinterpret_cast<Bits>(x == x ? reinterpret_cast<IntVec>(up) : reinterpret_cast<IntVec>(bits | 0x400000));
  };
  return reinterpret_cast<IntVec>((rounded(low) >> 16) | (rounded(high) & 0xffff0000u));
#endif
}

// sums + a.low * b.low + a.high * b.high
PYLLMCLF_INLINE Vec add_dot(Vec sums, IntVec a, IntVec b) {
#if defined(__AVX512BF16__)
  return _mm512_dpbf16_ps(sums, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
#else
  constexpr int32_t kHigh = static_cast<int32_t>(0xffff0000u);
  sums += as_float(a << 16) * as_float(b << 16);
  return sums + as_float(a & kHigh) * as_float(b & kHigh);
#endif
}

// sums[kRows][kPanelVecs] += A B for `depth` pairs. The pair k of row i of A is a[i a_row + k a_pair]; row k of the
// panel of B is kPanel pairs long.
template <int kRows>
PYLLMCLF_INLINE void pair_tile(int64_t depth, const int32_t* a, int64_t a_row, int64_t a_pair, const int32_t* panel,
                               Vec (&sums)[kRows][kPanelVecs]) {
  for (int64_t k = 0; k < depth; ++k) {
    IntVec right[kPanelVecs];
#pragma GCC unroll 4
    for (int j = 0; j < kPanelVecs; ++j) right[j] = load_pairs(panel + k * kPanel + j * kLanes);
#pragma GCC unroll 6
    for (int i = 0; i < kRows; ++i) {
      const IntVec left = a[i * a_row + k * a_pair] - IntVec{};
#pragma GCC unroll 4
      for (int j = 0; j < kPanelVecs; ++j) sums[i][j] = add_dot(sums[i][j], left, right[j]);
    }
  }
}

// Packs columns [0, count) of two rows of fp32 numbers as a row of the panel; `second` may be null: zeros.
PYLLMCLF_INLINE void pack_row(const float* first, const float* second, int64_t count, int32_t* panel) {
  for (int64_t c = 0; c < kPanel; c += kLanes) {
    const int64_t left = count - c < 0 ? 0 : count - c < kLanes ? count - c : kLanes;
    const Vec low = read(first + c, left), high = second ? read(second + c, left) : Vec{};
    store_pairs(panel + c, to_pairs(low, high));
  }
}

}  // namespace PYLLMCLF_SIMD
}  // namespace pyllmclf
