// Matrix product of small tiles that stay in the caches; torch's BLAS computes the large products.
#pragma once

#include "simd.h"

namespace pyllmclf {
namespace PYLLMCLF_SIMD {

// A tile uses 15 of 16 vector registers: 6 x 2 sums, two vectors of B and one broadcast of A.
constexpr int kTileRows = 6;
constexpr int kTileVecs = 2;

// C[kRows, kVecs kLanes] (+)= A B.
template <int kRows, int kVecs>
PYLLMCLF_INLINE void gemm_tile(int64_t depth, const float* a, int64_t a_row, int64_t a_column, const float* b,
                               int64_t b_row, float* c, int64_t c_row, bool accumulate) {
  Vec sums[kRows][kVecs];
#pragma GCC unroll 6
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
    for (int j = 0; j < kVecs; ++j) sums[i][j] = accumulate ? load(c + i * c_row + j * kLanes) : Vec{};
  }
  for (int64_t k = 0; k < depth; ++k) {
    Vec right[kVecs];
#pragma GCC unroll 2
    for (int j = 0; j < kVecs; ++j) right[j] = load(b + k * b_row + j * kLanes);
#pragma GCC unroll 6
    for (int i = 0; i < kRows; ++i) {
      const Vec left = splat(a[i * a_row + k * a_column]);
#pragma GCC unroll 2
      for (int j = 0; j < kVecs; ++j) sums[i][j] += left * right[j];
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
    for (int j = 0; j < kVecs; ++j) store(c + i * c_row + j * kLanes, sums[i][j]);
  }
}

template <int kVecs>
PYLLMCLF_INLINE void gemm_columns(int64_t rows, int64_t depth, const float* a, int64_t a_row, int64_t a_column,
                                  const float* b, int64_t b_row, float* c, int64_t c_row, bool accumulate) {
  int64_t i = 0;
  for (; i + kTileRows <= rows; i += kTileRows) {
    gemm_tile<kTileRows, kVecs>(depth, a + i * a_row, a_row, a_column, b, b_row, c + i * c_row, c_row, accumulate);
  }
  a += i * a_row;
  c += i * c_row;
  switch (rows - i) {
    case 5:
      return gemm_tile<5, kVecs>(depth, a, a_row, a_column, b, b_row, c, c_row, accumulate);
    case 4:
      return gemm_tile<4, kVecs>(depth, a, a_row, a_column, b, b_row, c, c_row, accumulate);
    case 3:
      return gemm_tile<3, kVecs>(depth, a, a_row, a_column, b, b_row, c, c_row, accumulate);
    case 2:
      return gemm_tile<2, kVecs>(depth, a, a_row, a_column, b, b_row, c, c_row, accumulate);
    case 1:
      return gemm_tile<1, kVecs>(depth, a, a_row, a_column, b, b_row, c, c_row, accumulate);
    default:
      return;
  }
}

// C[rows, columns] (+)= A[rows, depth] B[depth, columns]. Element (i, k) of A is a[i a_row + k a_column]; the rows of
// B and C are contiguous; columns is a multiple of kLanes.
inline void gemm(int64_t rows, int64_t columns, int64_t depth, const float* a, int64_t a_row, int64_t a_column,
                 const float* b, int64_t b_row, float* c, int64_t c_row, bool accumulate) {
  int64_t j = 0;
  for (; j + kTileVecs * kLanes <= columns; j += kTileVecs * kLanes) {
    gemm_columns<kTileVecs>(rows, depth, a, a_row, a_column, b + j, b_row, c + j, c_row, accumulate);
  }
  if (j < columns) gemm_columns<1>(rows, depth, a, a_row, a_column, b + j, b_row, c + j, c_row, accumulate);
}

}  // namespace PYLLMCLF_SIMD
}  // namespace pyllmclf
