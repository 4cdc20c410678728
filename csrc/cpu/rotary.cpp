// Rotary position embedding (Su et al. 2021): channels (i, i + half) of each head turn by the angle of their row.
#include "ops.h"
#include "simd.h"

namespace pyllmclf {
namespace PYLLMCLF_SIMD {

void rotary_rows(const RotaryRows& a) {
  const int64_t rotated = 2 * a.heads * a.half, width = rotated + a.rest;
  parallel_for(a.rows, a.rows * width, a.threads, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float *x = a.x + row * a.x_row, *cosine = a.cosine + row * a.half, *sine = a.sine + row * a.half;
      float* y = a.y + row * width;
      for (int64_t first = 0; first < rotated; first += 2 * a.half) {
        for_columns(a.half, [&](int64_t c, int64_t count) {
          const Vec low = read(x + first + c, count), high = read(x + first + a.half + c, count);
          const Vec co = read(cosine + c, count), si = a.inverse ? -read(sine + c, count) : read(sine + c, count);
          write(y + first + c, low * co - high * si, count);
          write(y + first + a.half + c, high * co + low * si, count);
        });
      }
      for_columns(a.rest,
                  [&](int64_t c, int64_t count) { write(y + rotated + c, read(x + rotated + c, count), count); });
    }
  });
}

}  // namespace PYLLMCLF_SIMD
}  // namespace pyllmclf
