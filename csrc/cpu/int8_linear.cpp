// Linear layer in int8 for processors without int8 instructions: rows and weights are widened to int16, whose pairs
// one instruction multiplies and adds to int32 exactly (pmaddwd). Beside fp32 it halves the instructions' number, and
// the weight's bytes.
//
// A pair are two neighbours along the inner axis. The weight is packed in panels of 16 outputs, with a pair of each
// output in turn; the rows are quantised once and shared by all panels.
#include <stdlib.h>

#include "int8_row.h"
#include "ops.h"

namespace pyllmclf {
namespace PYLLMCLF_SIMD {
namespace {

typedef IntVec UnalignedInts __attribute__((aligned(4), may_alias));
typedef int32_t Pair __attribute__((may_alias));  // read from int16 rows

constexpr int64_t kPanel = kInt8Panel;
constexpr int kVecs = kPanel / kLanes;
// Rows of a tile, whose sums stay in registers: 12 of 16 with AVX2, 12 of 32 with AVX-512.
#if defined(__AVX512F__)
constexpr int kRows = 12;
#elif defined(__AVX2__)
constexpr int kRows = 6;
#else
constexpr int kRows = 2;
#endif

// sums + a.low b.low + a.high b.high, of int16 pairs.
PYLLMCLF_INLINE IntVec add_pairs(IntVec sums, IntVec a, IntVec b) {
#if defined(__AVX512BW__)
  const __m512i product = _mm512_maskz_madd_epi16(0xffff, reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b));
  return sums + reinterpret_cast<IntVec>(product);
#elif defined(__AVX2__)
  return sums + reinterpret_cast<IntVec>(_mm256_madd_epi16(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
#elif defined(__SSE2__)
  return sums + reinterpret_cast<IntVec>(_mm_madd_epi16(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)));
#else
  return sums + ((a << 16) >> 16) * ((b << 16) >> 16) + (a >> 16) * (b >> 16);
#endif
}

// Rows of x in int16, padded to whole pairs, and their scales.
struct Quantized {
  int16_t* q;
  float* scales;
  int64_t pairs;
};

// Rows [row, row + kCount) of y at the outputs of one panel.
template <int kCount>
void tile(const Int8Linear& a, const Quantized& x, int64_t row, int64_t output, const int32_t* panel) {
  IntVec sums[kCount][kVecs] = {};
  const Pair* from = reinterpret_cast<const Pair*>(x.q) + row * x.pairs;
  for (int64_t k = 0; k < x.pairs; ++k) {
    IntVec right[kVecs];
#pragma GCC unroll 4
    for (int j = 0; j < kVecs; ++j) {
      right[j] = *reinterpret_cast<const UnalignedInts*>(panel + k * kPanel + j * kLanes);
    }
#pragma GCC unroll 12
    for (int i = 0; i < kCount; ++i) {
      const IntVec left = from[i * x.pairs + k] - IntVec{};
#pragma GCC unroll 4
      for (int j = 0; j < kVecs; ++j) sums[i][j] = add_pairs(sums[i][j], left, right[j]);
    }
  }
#pragma GCC unroll 12
  for (int i = 0; i < kCount; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kVecs; ++j) {
      const int64_t column = output + j * kLanes, count = at_most(a.outputs - column, kLanes);
      if (count <= 0) continue;
      const Vec value = dequantized(sums[i][j], x.scales[row + i], read(a.column_scales + column, count));
      write(a.y + (row + i) * a.outputs + column, a.bias ? value + read(a.bias + column, count) : value, count);
    }
  }
}

// The tile of `left` < kCount rows.
template <int kCount>
void last_tile(const Int8Linear& a, const Quantized& x, int64_t row, int64_t left, int64_t output,
               const int32_t* panel) {
  if constexpr (kCount > 1) {
    if (left < kCount - 1) return last_tile<kCount - 1>(a, x, row, left, output, panel);
    tile<kCount - 1>(a, x, row, output, panel);
  }
}

}  // namespace

bool int8_linear(const Int8Linear& a) {
  Quantized x = {nullptr, nullptr, divide_up(a.inputs, 2)};
  x.q = static_cast<int16_t*>(malloc(static_cast<size_t>(a.rows * x.pairs * 4 + 1)));
  x.scales = static_cast<float*>(malloc(static_cast<size_t>(a.rows) * sizeof(float) + 1));
  const bool allocated = x.q && x.scales;
  if (allocated) {
    parallel_for(a.rows, a.rows * a.inputs, a.threads, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        int16_t* q = x.q + row * 2 * x.pairs;
        quantize_row(a.x + row * a.inputs, a.factors, a.inputs, q, x.scales + row);
        if (a.inputs % 2) q[a.inputs] = 0;
      }
    });
    const int32_t* packed = reinterpret_cast<const int32_t*>(a.packed);
    const int64_t panels = divide_up(a.outputs, kPanel);
    parallel_for(panels, a.rows * a.inputs * a.outputs, a.threads, [&](int64_t begin, int64_t end) {
      for (int64_t panel = begin; panel < end; ++panel) {
        const int32_t* weights = packed + panel * x.pairs * kPanel;
        int64_t row = 0;
        for (; row + kRows <= a.rows; row += kRows) tile<kRows>(a, x, row, panel * kPanel, weights);
        if (row < a.rows) last_tile<kRows>(a, x, row, a.rows - row, panel * kPanel, weights);
      }
    });
  }
  free(x.q);
  free(x.scales);
  return allocated;
}

}  // namespace PYLLMCLF_SIMD
}  // namespace pyllmclf
