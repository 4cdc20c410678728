// Sums over rows for the gradients of biases and norm parameters, with the same bits for any number of threads.
#pragma once

#include <stdlib.h>

#include "simd.h"

namespace pyllmclf {
namespace PYLLMCLF_SIMD {

// Splits rows into blocks by the shape alone; one thread sums a block, and the blocks' sums are added in order.
class RowSums {
 public:
  // Allocates sums of `width` columns for each block; with `wanted` false it only splits the rows.
  RowSums(int64_t rows, int64_t width, bool wanted) : rows_(rows), width_(width) {
    constexpr int64_t kMinRows = 32, kMaxBlocks = 64;
    block_rows_ = (rows + kMaxBlocks - 1) / kMaxBlocks;
    if (block_rows_ < kMinRows) block_rows_ = kMinRows;
    blocks_ = (rows + block_rows_ - 1) / block_rows_;
    // One more than needed: malloc(0) may return null.
    if (wanted) sums_ = static_cast<float*>(malloc(static_cast<size_t>(blocks_ * width + 1) * sizeof(float)));
    failed_ = wanted && !sums_;
  }
  ~RowSums() { free(sums_); }
  RowSums(const RowSums&) = delete;
  RowSums& operator=(const RowSums&) = delete;

  bool failed() const { return failed_; }
  int64_t blocks() const { return blocks_; }
  int64_t first_row(int64_t block) const { return block * block_rows_; }
  int64_t last_row(int64_t block) const {
    const int64_t end = (block + 1) * block_rows_;
    return end < rows_ ? end : rows_;
  }

  // Returns the sums of a block, set to zero; null without sums.
  float* start(int64_t block) const {
    if (!sums_) return nullptr;
    float* sums = sums_ + block * width_;
    memset(sums, 0, static_cast<size_t>(width_) * sizeof(float));
    return sums;
  }

  // target[count] = sum over the blocks of columns [first, first + count).
  void total(int64_t first, int64_t count, float* target) const {
    for (int64_t c = 0; c < count; ++c) target[c] = 0.0f;
    for (int64_t block = 0; block < blocks_; ++block) {
      const float* sums = sums_ + block * width_ + first;
      for (int64_t c = 0; c < count; ++c) target[c] += sums[c];
    }
  }

 private:
  int64_t rows_, width_, block_rows_, blocks_;
  float* sums_ = nullptr;
  bool failed_;
};

// Rows per group: a group is summed in registers before its sum goes to memory.
constexpr int kRowsTogether = 2;

template <int kCount>
struct RowCount {
  static constexpr int value = kCount;
};

// Calls body(first row, RowCount of the group) for the groups of the rows [begin, end).
template <typename Body>
PYLLMCLF_INLINE void for_row_groups(int64_t begin, int64_t end, const Body& body) {
  int64_t row = begin;
  for (; row + kRowsTogether <= end; row += kRowsTogether) body(row, RowCount<kRowsTogether>{});
  for (; row < end; ++row) body(row, RowCount<1>{});
}

}  // namespace PYLLMCLF_SIMD
}  // namespace pyllmclf
