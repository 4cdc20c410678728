// Sum of token, position and type embeddings, fused with BERT's layer norm; backward adds dy to the rows of a table.
#include "norm_row.h"
#include "ops.h"
#include "simd.h"

namespace pyllmclf {
namespace PYLLMCLF_SIMD {

void embedding_forward(const EmbeddingForward& a) {
  const Output out(a.y, 0, a.width);  // zero rows: y is read again at once, so it stays in the caches
  parallel_for(a.rows, a.rows * a.width, a.threads, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float* token = a.token + a.input_ids[row] * a.width;
      const float* position = a.position + a.positions[row] * a.width;
      float* y = a.y + row * a.width;
      if (a.type) {
        const float* type = a.type + (a.types ? a.types[row] * a.width : 0);
        for (int64_t c = 0; c < a.width; ++c) y[c] = token[c] + position[c] + type[c];
      } else {
        for (int64_t c = 0; c < a.width; ++c) y[c] = token[c] + position[c];
      }
      if (a.norm_weight) {
        normalize_row<false>(y, nullptr, nullptr, a.norm_weight, a.norm_bias, a.width, a.eps, out, y, a.mean + row,
                             a.rstd + row);
      }
    }
  });
}

// A task owns some columns of all rows: no two threads write the same element, and rows are added in order.
void embedding_backward(const EmbeddingBackward& a) {
  parallel_for((a.width + kLanes - 1) / kLanes, a.rows * a.width, a.threads, [&](int64_t begin, int64_t end) {
    const int64_t first = begin * kLanes, last = end * kLanes < a.width ? end * kLanes : a.width;
    for (int64_t row = 0; row < a.rows; ++row) {
      const float* dy = a.dy + row * a.width;
      float* target = a.dtable + (a.index ? a.index[row] * a.width : 0);
      for (int64_t c = first; c < last; ++c) target[c] += dy[c];
    }
  });
}

}  // namespace PYLLMCLF_SIMD
}  // namespace pyllmclf
