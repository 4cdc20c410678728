// Dropout of rows. The mask is a function of (seed, step, stream, example, position, channel).
#include "ops.h"
#include "philox.h"

namespace pyllmclf {
namespace PYLLMCLF_SIMD {

void dropout_rows(const DropoutRows& a) {
  parallel_for(a.rows, a.rows * a.width * 4, a.threads, [&](int64_t begin, int64_t end) {
    uint32_t words[kPhiloxWords];
    for (int64_t row = begin; row < end; ++row) {
      const float* x = a.x + row * a.width;
      float* y = a.y + row * a.width;
      const uint32_t example = static_cast<uint32_t>(a.example_ids[row]);
      const uint32_t position = static_cast<uint32_t>(a.positions[row]);
      for (int64_t c = 0; c < a.width; c += kPhiloxWords) {
        philox(a.dropout, a.dropout.stream, example, position, c, words);
        const int64_t count = a.width - c < kPhiloxWords ? a.width - c : kPhiloxWords;
        for (int64_t i = 0; i < count; ++i) {
          y[c + i] = words[i] >= a.dropout.threshold ? x[c + i] * a.dropout.scale : 0.0f;
        }
      }
    }
  });
}

}  // namespace PYLLMCLF_SIMD
}  // namespace pyllmclf
