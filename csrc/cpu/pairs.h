// Products of bf16 matrices with fp32 sums, on pairs: two neighbours along the inner axis in 32 bits, the first in the
// low half. AVX512-BF16 multiplies and adds the pairs of a vector in one instruction; elsewhere both halves are widened
// to fp32, which is as exact and slow.
#pragma once

#include "simd.h"

namespace pyllmclf {
namespace PYLLMCLF_SIMD {

typedef uint32_t BitVec __attribute__((vector_size(kLanes * 4)));
typedef IntVec UnalignedIntVec __attribute__((aligned(4), may_alias));
typedef int32_t Pair __attribute__((may_alias));  // read from bf16 rows
typedef uint16_t HalfVec __attribute__((vector_size(kLanes * 2)));
typedef HalfVec UnalignedHalfVec __attribute__((aligned(2), may_alias));

PYLLMCLF_INLINE IntVec load_pairs(const int32_t* p) { return *reinterpret_cast<const UnalignedIntVec*>(p); }
PYLLMCLF_INLINE void store_pairs(int32_t* p, IntVec x) { *reinterpret_cast<UnalignedIntVec*>(p) = x; }

// The bits of x rounded to bf16, to nearest even, in the high half of each lane; the low half is undefined. NaN stays
// NaN.
PYLLMCLF_INLINE BitVec rounded_bits(Vec x) {
  const BitVec bits = reinterpret_cast<BitVec>(x);
  const BitVec up = bits + 0x7fff + ((bits >> 16) & 1);
  return reinterpret_cast<BitVec>(x == x ? reinterpret_cast<IntVec>(up) : reinterpret_cast<IntVec>(bits | 0x400000));
}

// Lane i: bf16(low[i]), then bf16(high[i]).
PYLLMCLF_INLINE IntVec pairs_across(Vec low, Vec high) {
#if defined(__AVX512BF16__)
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21,
                                         5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return reinterpret_cast<IntVec>(
      _mm512_permutexvar_epi16(order, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low))));
#else
  return reinterpret_cast<IntVec>((rounded_bits(low) >> 16) | (rounded_bits(high) & 0xffff0000u));
#endif
}

// Lane i: bf16(p[2 i]), then bf16(p[2 i + 1]).
PYLLMCLF_INLINE IntVec pairs_along(const float* p) {
#if defined(__AVX512BF16__)
  return reinterpret_cast<IntVec>(_mm512_cvtne2ps_pbh(load(p + kLanes), load(p)));
#else
  Vec low, high;
  for (int i = 0; i < kLanes; ++i) low[i] = p[2 * i], high[i] = p[2 * i + 1];
  return pairs_across(low, high);
#endif
}

// Rounded to bf16.
PYLLMCLF_INLINE HalfVec to_halves(Vec x) {
#if defined(__AVX512BF16__)
  return reinterpret_cast<HalfVec>(_mm512_cvtneps_pbh(x));
#else
  return __builtin_convertvector(rounded_bits(x) >> 16, HalfVec);
#endif
}

PYLLMCLF_INLINE void write_halves(uint16_t* p, HalfVec x, int64_t count) {
  if (count == kLanes) {
    *reinterpret_cast<UnalignedHalfVec*>(p) = x;
  } else {
    memcpy(p, &x, static_cast<size_t>(count) * sizeof(uint16_t));
  }
}

// Each half in the low bits of its lane.
PYLLMCLF_INLINE IntVec widen(HalfVec x) {
#if defined(__AVX512F__)
  return reinterpret_cast<IntVec>(_mm512_maskz_cvtepu16_epi32(0xffff, reinterpret_cast<__m256i>(x)));
#else
  return __builtin_convertvector(x, IntVec);
#endif
}

// Lane i: low[i], then high[i], of bf16 numbers.
PYLLMCLF_INLINE IntVec pairs_across(HalfVec low, HalfVec high) { return widen(low) | (widen(high) << 16); }

PYLLMCLF_INLINE HalfVec read_halves(const uint16_t* p, int64_t count) {
  if (count == kLanes) return *reinterpret_cast<const UnalignedHalfVec*>(p);
  HalfVec x = {};
  memcpy(&x, p, static_cast<size_t>(count) * sizeof(uint16_t));
  return x;
}

// sums + a.low b.low + a.high b.high
PYLLMCLF_INLINE Vec add_products(Vec sums, IntVec a, IntVec b) {
#if defined(__AVX512BF16__)
  return _mm512_dpbf16_ps(sums, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
#else
  constexpr int32_t kHigh = static_cast<int32_t>(0xffff0000u);
  sums += as_float(a << 16) * as_float(b << 16);
  return sums + as_float(a & kHigh) * as_float(b & kHigh);
#endif
}

// sums += A B over `depth` pairs of the inner axis. Pair k of row i of A is a[i a_row + k a_pair]; right(k, j) is
// vector j of row k of B.
template <int kRows, int kVecs, typename Right>
PYLLMCLF_INLINE void pair_tile(int64_t depth, const Pair* a, int64_t a_row, int64_t a_pair, const Right& right,
                               Vec (&sums)[kRows][kVecs]) {
  for (int64_t k = 0; k < depth; ++k) {
    IntVec row[kVecs];
#pragma GCC unroll 4
    for (int j = 0; j < kVecs; ++j) row[j] = right(k, j);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const IntVec left = a[i * a_row + k * a_pair] - IntVec{};
#pragma GCC unroll 4
      for (int j = 0; j < kVecs; ++j) sums[i][j] = add_products(sums[i][j], left, row[j]);
    }
  }
}

// The same with a packed panel of B, whose rows are panel_row pairs.
template <int kRows, int kVecs>
PYLLMCLF_INLINE void pair_tile(int64_t depth, const Pair* a, int64_t a_row, int64_t a_pair, const int32_t* panel,
                               int64_t panel_row, Vec (&sums)[kRows][kVecs]) {
  pair_tile<kRows, kVecs>(
      depth, a, a_row, a_pair, [&](int64_t k, int j) { return load_pairs(panel + k * panel_row + j * kLanes); }, sums);
}

// Calls body(i, j) for all i < kRows and j < kVecs, unrolled, so that an array of sums that it indexes stays in
// registers.
template <int kRows, int kVecs, typename Body>
PYLLMCLF_INLINE void for_tile(const Body& body) {
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kVecs; ++j) body(i, j);
  }
}

// Transposes kLanes x kLanes pairs: to[k][j] = rows[j][k], whose rows are to_row apart.
PYLLMCLF_INLINE void turn_pairs(IntVec (&rows)[kLanes], int32_t* to, int64_t to_row) {
#if defined(__AVX512F__)
  // Transposes 4 x 4 pairs within each quarter of four rows, then the 4 x 4 quarters. Masked forms, because GCC warns
  // about its own unmasked 512-bit intrinsics.
  __m512i x[16], y[16];
  for (int i = 0; i < 16; ++i) x[i] = reinterpret_cast<__m512i>(rows[i]);
  for (int i = 0; i < 16; i += 2) {
    y[i] = _mm512_maskz_unpacklo_epi32(0xffff, x[i], x[i + 1]);
    y[i + 1] = _mm512_maskz_unpackhi_epi32(0xffff, x[i], x[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    x[i] = _mm512_maskz_unpacklo_epi64(0xff, y[i], y[i + 2]);
    x[i + 1] = _mm512_maskz_unpackhi_epi64(0xff, y[i], y[i + 2]);
    x[i + 2] = _mm512_maskz_unpacklo_epi64(0xff, y[i + 1], y[i + 3]);
    x[i + 3] = _mm512_maskz_unpackhi_epi64(0xff, y[i + 1], y[i + 3]);
  }
  constexpr int kEven = 0x88, kOdd = 0xdd;  // quarters 0 and 2 of both operands; 1 and 3
  for (int c = 0; c < 4; ++c) {
    const __m512i even01 = _mm512_maskz_shuffle_i32x4(0xffff, x[c], x[4 + c], kEven);
    const __m512i odd01 = _mm512_maskz_shuffle_i32x4(0xffff, x[c], x[4 + c], kOdd);
    const __m512i even23 = _mm512_maskz_shuffle_i32x4(0xffff, x[8 + c], x[12 + c], kEven);
    const __m512i odd23 = _mm512_maskz_shuffle_i32x4(0xffff, x[8 + c], x[12 + c], kOdd);
    y[c] = _mm512_maskz_shuffle_i32x4(0xffff, even01, even23, kEven);
    y[4 + c] = _mm512_maskz_shuffle_i32x4(0xffff, odd01, odd23, kEven);
    y[8 + c] = _mm512_maskz_shuffle_i32x4(0xffff, even01, even23, kOdd);
    y[12 + c] = _mm512_maskz_shuffle_i32x4(0xffff, odd01, odd23, kOdd);
  }
  for (int i = 0; i < 16; ++i) store_pairs(to + i * to_row, reinterpret_cast<IntVec>(y[i]));
#else
  for (int k = 0; k < kLanes; ++k) {
    for (int j = 0; j < kLanes; ++j) to[k * to_row + j] = rows[j][k];
  }
#endif
}

}  // namespace PYLLMCLF_SIMD
}  // namespace pyllmclf
