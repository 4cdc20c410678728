// Packed rows of a head, and tiles of scores, as operands of gemm() in fp32 or bf16.
//
// A left operand has the inner axis along its rows, a right one across its rows; in bf16 neighbours along the inner
// axis are pairs, so that the two differ.
#pragma once

#include "attention_tiles.h"
#include "gemm.h"

namespace pyllmclf {
namespace PYLLMCLF_SIMD {

// Copies rows [begin, begin + count) of a head, times `scale`, to packed[count][depth]; columns from head_dim on are 0.
inline void pack_rows(const Heads& x, int64_t head, int64_t begin, int64_t count, int64_t head_dim, int64_t depth,
                      float scale, float* packed) {
  for (int64_t i = 0; i < count; ++i) {
    float* row = packed + i * depth;
    const float* from = x.data + (begin + i) * x.row_stride + head * x.head_stride;
    for (int64_t d = 0; d < head_dim; ++d) row[d] = from[d] * scale;
    for (int64_t d = head_dim; d < depth; ++d) row[d] = 0.0f;
  }
}

// Copies the same rows transposed to packed[depth][kKeyBlock]. Writes round_up(count, kLanes) columns; those from
// `count` on are 0.
inline void pack_columns(const Heads& x, int64_t head, int64_t begin, int64_t count, int64_t head_dim, int64_t depth,
                         float* packed) {
  const int64_t columns = round_up(count, kLanes);
  for (int64_t j = 0; j < columns; j += kTurned) {
    const float* from = x.data + (begin + j) * x.row_stride + head * x.head_stride;
    for (int64_t d = 0; d < depth; d += kTurned) {
      float* to = packed + d * kKeyBlock + j;
      if (j + kTurned <= count && d + kTurned <= head_dim) {
        turn(from + d, x.row_stride, to, kKeyBlock);
        continue;
      }
      for (int64_t dd = 0; dd < kTurned; ++dd) {
        for (int64_t jj = 0; jj < kTurned; ++jj) {
          const bool inside = j + jj < count && d + dd < head_dim;
          to[dd * kKeyBlock + jj] = inside ? from[jj * x.row_stride + d + dd] : 0.0f;
        }
      }
    }
  }
}

// Packs the rows as a left operand: [count][depth / kInner].
inline void pack_left(const Heads& x, int64_t head, int64_t begin, int64_t count, int64_t head_dim, int64_t depth,
                      float scale, float* packed) {
  pack_rows(x, head, begin, count, head_dim, depth, scale, packed);
}
inline void pack_left(const Heads& x, int64_t head, int64_t begin, int64_t count, int64_t head_dim, int64_t depth,
                      float scale, int32_t* packed) {
  for (int64_t i = 0; i < count; ++i) {
    const float* from = x.data + (begin + i) * x.row_stride + head * x.head_stride;
    for (int64_t d = 0; d < depth; d += 2 * kLanes) {
      alignas(64) float numbers[2 * kLanes];
      for (int64_t j = 0; j < 2 * kLanes; ++j) numbers[j] = d + j < head_dim ? from[d + j] * scale : 0.0f;
      const IntVec pairs = pairs_along(numbers);
      memcpy(packed + (i * depth + d) / 2, &pairs, static_cast<size_t>(at_most(2 * kLanes, depth - d)) * 2);
    }
  }
}

// Packs the rows as a right operand: [count / kInner, rounded up][depth].
inline void pack_right(const Heads& x, int64_t head, int64_t begin, int64_t count, int64_t head_dim, int64_t depth,
                       float scale, float* packed) {
  pack_rows(x, head, begin, count, head_dim, depth, scale, packed);
}
inline void pack_right(const Heads& x, int64_t head, int64_t begin, int64_t count, int64_t head_dim, int64_t depth,
                       float scale, int32_t* packed) {
  for (int64_t i = 0; i < count; i += 2) {
    const float* low = x.data + (begin + i) * x.row_stride + head * x.head_stride;
    for (int64_t d = 0; d < depth; d += kLanes) {
      const int64_t columns = at_least(0, at_most(head_dim - d, kLanes));
      const Vec second = i + 1 < count ? read(low + x.row_stride + d, columns) : Vec{};
      store_pairs(packed + i / 2 * depth + d, pairs_across(read(low + d, columns) * scale, second * scale));
    }
  }
}

// The right operand of rows that are packed as a left one; in fp32 it is the same.
inline const float* right_of(const float* left, const Heads&, int64_t, int64_t, int64_t, int64_t, int64_t, float,
                             float*) {
  return left;
}
inline const int32_t* right_of(const int32_t*, const Heads& x, int64_t head, int64_t begin, int64_t count,
                               int64_t head_dim, int64_t depth, float scale, int32_t* packed) {
  pack_right(x, head, begin, count, head_dim, depth, scale, packed);
  return packed;
}

// Packs the rows transposed: [depth / kInner][kKeyBlock]. Writes round_up(count, kLanes) columns; those from `count` on
// are 0.
inline void pack_turned(const Heads& x, int64_t head, int64_t begin, int64_t count, int64_t head_dim, int64_t depth,
                        float* packed) {
  pack_columns(x, head, begin, count, head_dim, depth, packed);
}
inline void pack_turned(const Heads& x, int64_t head, int64_t begin, int64_t count, int64_t head_dim, int64_t depth,
                        int32_t* packed) {
  for (int64_t first = 0; first < count; first += kLanes) {
    for (int64_t d = 0; d < depth; d += 2 * kLanes) {
      IntVec rows[kLanes];
      for (int64_t j = 0; j < kLanes; ++j) {
        alignas(64) float numbers[2 * kLanes] = {};
        if (first + j < count) {
          const float* from = x.data + (begin + first + j) * x.row_stride + head * x.head_stride + d;
          if (d + 2 * kLanes <= head_dim) {
            rows[j] = pairs_along(from);
            continue;
          }
          for (int64_t i = 0; i < head_dim - d; ++i) numbers[i] = from[i];
        }
        rows[j] = pairs_along(numbers);
      }
      if (d + 2 * kLanes <= depth) {
        turn_pairs(rows, packed + d / 2 * kKeyBlock + first, kKeyBlock);
        continue;
      }
      for (int64_t i = 0; i < (depth - d) / 2; ++i) {
        for (int64_t j = 0; j < kLanes; ++j) packed[(d / 2 + i) * kKeyBlock + first + j] = rows[j][i];
      }
    }
  }
}

// A tile of scores [rows][kKeyBlock] as a left operand: [rows][kKeyBlock / kInner].
inline const float* scores_left(const float* scores, int64_t, int64_t, float*) { return scores; }
inline const int32_t* scores_left(const float* scores, int64_t rows, int64_t columns, int32_t* packed) {
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t c = 0; c < columns; c += 2 * kLanes) {
      store_pairs(packed + (i * kKeyBlock + c) / 2, pairs_along(scores + i * kKeyBlock + c));
    }
  }
  return packed;
}

// The tile transposed, as a left operand: element (key, row) is at [row / kInner][key].
inline const float* scores_turned(const float* scores, int64_t, int64_t, float*) { return scores; }
inline const int32_t* scores_turned(const float* scores, int64_t rows, int64_t columns, int32_t* packed) {
  for (int64_t i = 0; i < rows; i += 2) {
    for (int64_t c = 0; c < columns; c += kLanes) {
      const float* low = scores + i * kKeyBlock + c;
      const Vec second = i + 1 < rows ? load(low + kKeyBlock) : Vec{};
      store_pairs(packed + i / 2 * kKeyBlock + c, pairs_across(load(low), second));
    }
  }
  return packed;
}

}  // namespace PYLLMCLF_SIMD
}  // namespace pyllmclf
