// Matrix product of small tiles that stay in the caches; torch's BLAS computes the large products.
#pragma once

#include "pairs.h"

namespace pyllmclf {
namespace PYLLMCLF_SIMD {

// Operands in fp32.
struct Fp32 {
  using Number = float;
  using Numbers = Vec;
  // Neighbours along the inner axis that one Number holds.
  static constexpr int64_t kInner = 1;
  static PYLLMCLF_INLINE Numbers read(const Number* p) { return load(p); }
  static PYLLMCLF_INLINE Numbers all(Number x) { return splat(x); }
  static PYLLMCLF_INLINE Vec add_product(Vec sums, Numbers a, Numbers b) { return sums + a * b; }
};

// Operands in bf16: pairs of neighbours along the inner axis.
struct Bf16 {
  using Number = int32_t;
  using Numbers = IntVec;
  static constexpr int64_t kInner = 2;
  static PYLLMCLF_INLINE Numbers read(const Number* p) { return load_pairs(p); }
  static PYLLMCLF_INLINE Numbers all(Number x) { return x - IntVec{}; }
  static PYLLMCLF_INLINE Vec add_product(Vec sums, Numbers a, Numbers b) { return add_products(sums, a, b); }
};

// A tile uses 15 of 16 vector registers: 6 x 2 sums, two vectors of B and one broadcast of A.
constexpr int kTileRows = 6;
constexpr int kTileVecs = 2;

// C[kRows, kVecs kLanes] (+)= A B.
template <typename P, int kRows, int kVecs>
PYLLMCLF_INLINE void gemm_tile(int64_t depth, const typename P::Number* a, int64_t a_row, int64_t a_column,
                               const typename P::Number* b, int64_t b_row, float* c, int64_t c_row, bool accumulate) {
  Vec sums[kRows][kVecs];
#pragma GCC unroll 6
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
    for (int j = 0; j < kVecs; ++j) sums[i][j] = accumulate ? load(c + i * c_row + j * kLanes) : Vec{};
  }
  for (int64_t k = 0; k < depth; ++k) {
    typename P::Numbers right[kVecs];
#pragma GCC unroll 2
    for (int j = 0; j < kVecs; ++j) right[j] = P::read(b + k * b_row + j * kLanes);
#pragma GCC unroll 6
    for (int i = 0; i < kRows; ++i) {
      const typename P::Numbers left = P::all(a[i * a_row + k * a_column]);
#pragma GCC unroll 2
      for (int j = 0; j < kVecs; ++j) sums[i][j] = P::add_product(sums[i][j], left, right[j]);
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
    for (int j = 0; j < kVecs; ++j) store(c + i * c_row + j * kLanes, sums[i][j]);
  }
}

template <typename P, int kVecs>
PYLLMCLF_INLINE void gemm_columns(int64_t rows, int64_t depth, const typename P::Number* a, int64_t a_row,
                                  int64_t a_column, const typename P::Number* b, int64_t b_row, float* c, int64_t c_row,
                                  bool accumulate) {
  int64_t i = 0;
  for (; i + kTileRows <= rows; i += kTileRows) {
    gemm_tile<P, kTileRows, kVecs>(depth, a + i * a_row, a_row, a_column, b, b_row, c + i * c_row, c_row, accumulate);
  }
  a += i * a_row;
  c += i * c_row;
  switch (rows - i) {
    case 5:
      return gemm_tile<P, 5, kVecs>(depth, a, a_row, a_column, b, b_row, c, c_row, accumulate);
    case 4:
      return gemm_tile<P, 4, kVecs>(depth, a, a_row, a_column, b, b_row, c, c_row, accumulate);
    case 3:
      return gemm_tile<P, 3, kVecs>(depth, a, a_row, a_column, b, b_row, c, c_row, accumulate);
    case 2:
      return gemm_tile<P, 2, kVecs>(depth, a, a_row, a_column, b, b_row, c, c_row, accumulate);
    case 1:
      return gemm_tile<P, 1, kVecs>(depth, a, a_row, a_column, b, b_row, c, c_row, accumulate);
    default:
      return;
  }
}

// C[rows, columns] (+)= A[rows, depth] B[depth, columns], depth in numbers of P. Element (i, k) of A is a[i a_row + k
// a_column]; the rows of B and C are contiguous; columns is a multiple of kLanes.
template <typename P>
inline void gemm(int64_t rows, int64_t columns, int64_t depth, const typename P::Number* a, int64_t a_row,
                 int64_t a_column, const typename P::Number* b, int64_t b_row, float* c, int64_t c_row,
                 bool accumulate) {
  int64_t j = 0;
  for (; j + kTileVecs * kLanes <= columns; j += kTileVecs * kLanes) {
    gemm_columns<P, kTileVecs>(rows, depth, a, a_row, a_column, b + j, b_row, c + j, c_row, accumulate);
  }
  if (j < columns) gemm_columns<P, 1>(rows, depth, a, a_row, a_column, b + j, b_row, c + j, c_row, accumulate);
}

}  // namespace PYLLMCLF_SIMD
}  // namespace pyllmclf
