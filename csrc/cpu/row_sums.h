// Sums over rows, as the gradients of biases and norm parameters need them: the same bits for any number of threads.
#pragma once

#include <stdlib.h>

#include "simd.h"

namespace pyllmclf {
namespace PYLLMCLF_SIMD {

// Rows are summed in blocks, each by one thread, and the blocks' sums in order. The cut depends on the shape alone.
class RowSums {
 public:
  // Sums of `width` columns; with `wanted` false there is nothing to sum, only the cut into blocks.
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

  // The sums of a block, zero at first; null where nothing is summed.
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

// Rows that are read together, so that their sums meet in registers first.
constexpr int kRowsTogether = 2;

template <int kCount>
struct RowCount {
  static constexpr int value = kCount;
};

// body(first row, RowCount of how many) for the rows [begin, end).
template <typename Body>
PYLLMCLF_INLINE void for_row_groups(int64_t begin, int64_t end, const Body& body) {
  int64_t row = begin;
  for (; row + kRowsTogether <= end; row += kRowsTogether) body(row, RowCount<kRowsTogether>{});
  for (; row < end; ++row) body(row, RowCount<1>{});
}

}  // namespace PYLLMCLF_SIMD
}  // namespace pyllmclf
