// Rows to int8 with a scale of their own, and products of int8 rows back to fp32.
#include "int8_row.h"
#include "ops.h"

namespace pyllmclf {
namespace PYLLMCLF_SIMD {

void quantize_rows(const QuantizeRows& a) {
  parallel_for(a.rows, a.rows * a.width, a.threads, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      quantize_row(a.x + row * a.width, a.factors, a.width, a.q + row * a.width, a.scales + row);
    }
  });
}

void dequantize_rows(const DequantizeRows& a) {
  parallel_for(a.rows, a.rows * a.width, a.threads, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      float* y = a.y + row * a.width;
      for_columns(a.width, [&](int64_t c, int64_t count) {
        const Vec value = dequantized(as_int(read(y + c, count)), a.row_scales[row], read(a.column_scales + c, count));
        write(y + c, a.bias ? value + read(a.bias + c, count) : value, count);
      });
    }
  });
}

}  // namespace PYLLMCLF_SIMD
}  // namespace pyllmclf
