// Linear layer on few rows, where loading the weight costs more than the arithmetic.
//
// The forward pass reads the weight once, in memory order. The backward pass reads it once for the input's gradient,
// the weight's gradient and AdamW's step (Loshchilov and Hutter 2019); the weight's gradient stays in registers.
#include <stdlib.h>

#include "adamw.h"
#include "ops.h"
#include "pairs.h"
#include "simd.h"

namespace pyllmclf {
namespace PYLLMCLF_SIMD {
namespace {

// Rows of the weight per tile: each vector of x and dx is loaded once for all of them.
constexpr int kTogether = 4;
// Rows of x per tile of the forward pass.
constexpr int kRowsForward = 4;

PYLLMCLF_INLINE Vec read_weight(const float* p, int64_t count) { return read(p, count); }
PYLLMCLF_INLINE Vec read_weight(const uint16_t* p, int64_t count) {
  return as_float(widen(read_halves(p, count)) << 16);
}

// Computes rows [row, row + kRows) of y at columns [output, output + kOutputs).
template <int kRows, int kOutputs, typename Number>
void forward(const LinearForward& a, const Number* weights, int64_t row, int64_t output) {
  const float* x = a.x + row * a.x_row;
  const Number* weight = weights + output * a.inputs;
  Vec sums[kRows][kOutputs] = {};
  for_columns(a.inputs, [&](int64_t c, int64_t count) {
    Vec right[kOutputs];
    for (int j = 0; j < kOutputs; ++j) {
      // The next outputs: the hardware prefetcher does not follow so many short streams.
      __builtin_prefetch(weight + (kOutputs + j) * a.inputs + c);
      right[j] = read_weight(weight + j * a.inputs + c, count);
    }
    for (int i = 0; i < kRows; ++i) {
      const Vec left = read(x + i * a.x_row + c, count);
      for (int j = 0; j < kOutputs; ++j) sums[i][j] += left * right[j];
    }
  });
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kOutputs; ++j) {
      a.y[(row + i) * a.outputs + output + j] = sum(sums[i][j]) + (a.bias ? a.bias[output + j] : 0.0f);
    }
  }
}

template <int kOutputs, typename Number>
void forward_outputs(const LinearForward& a, const Number* weights, int64_t output) {
  int64_t row = 0;
  for (; row + kRowsForward <= a.rows; row += kRowsForward) forward<kRowsForward, kOutputs>(a, weights, row, output);
  for (; row < a.rows; ++row) forward<1, kOutputs>(a, weights, row, output);
}

template <typename Number>
void forward_all(const LinearForward& a, const Number* weights) {
  const int64_t groups = divide_up(a.outputs, kTogether);
  parallel_for(groups, a.outputs * a.inputs, a.threads, [&](int64_t begin, int64_t end) {
    for (int64_t group = begin; group < end; ++group) {
      const int64_t first = group * kTogether;
      if (first + kTogether <= a.outputs) {
        forward_outputs<kTogether>(a, weights, first);
      } else {
        for (int64_t output = first; output < a.outputs; ++output) forward_outputs<1>(a, weights, output);
      }
    }
  });
}

// AdamW's step of the weight's rows [row, row + kRows). With kInput adds their part of the input's gradient to dx,
// which is [rows, inputs].
template <int kRows, bool kInput>
void update(const LinearAdamW& a, const AdamWStep& adamw, int64_t row, float* dx) {
  for_columns(a.inputs, [&](int64_t c, int64_t count) {
    Vec weight[kRows], gradient[kRows] = {};
    // The next rows: the hardware prefetcher does not follow so many streams of so few pages.
    for (int i = 0; i < kRows; ++i) {
      const int64_t next = (row + kRows + i) * a.inputs + c;
      __builtin_prefetch(a.weight + next, 1);
      __builtin_prefetch(a.exp_avg + next, 1);
      __builtin_prefetch(a.exp_avg_sq + next, 1);
    }
    for (int i = 0; i < kRows; ++i) weight[i] = read(a.weight + (row + i) * a.inputs + c, count);
    for (int64_t k = 0; k < a.rows; ++k) {
      const float* dy = a.dy + k * a.dy_row + row;
      const Vec x = read(a.x + k * a.x_row + c, count);
      Vec total = kInput ? read(dx + k * a.inputs + c, count) : Vec{};
      for (int i = 0; i < kRows; ++i) {
        gradient[i] += dy[i] * x;
        if (kInput) total += dy[i] * weight[i];
      }
      if (kInput) write(dx + k * a.inputs + c, total, count);
    }
    for (int i = 0; i < kRows; ++i) {
      const int64_t at = (row + i) * a.inputs + c;
      adamw.apply(a.weight + at, a.exp_avg + at, a.exp_avg_sq + at, weight[i], gradient[i], count);
    }
  });
}

// Splits the outputs into blocks by the shape alone; one thread computes a block, and each block has its own sum of dx.
template <bool kInput>
bool step(const LinearAdamW& a) {
  constexpr int64_t kBlockRows = kInput ? 96 : kTogether;
  const AdamWStep adamw(a.adamw);
  const int64_t blocks = (a.outputs + kBlockRows - 1) / kBlockRows;
  const int64_t size = a.rows * a.inputs;
  float* sums = nullptr;
  // One more than needed: malloc(0) may return null.
  if (kInput && !(sums = static_cast<float*>(malloc(static_cast<size_t>(blocks * size + 1) * sizeof(float)))))
    return false;
  parallel_for(blocks, a.outputs * a.inputs * 4, a.threads, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      float* dx = sums + block * size;
      if (kInput) memset(dx, 0, static_cast<size_t>(size) * sizeof(float));
      const int64_t last = (block + 1) * kBlockRows < a.outputs ? (block + 1) * kBlockRows : a.outputs;
      int64_t row = block * kBlockRows;
      for (; row + kTogether <= last; row += kTogether) update<kTogether, kInput>(a, adamw, row, dx);
      for (; row < last; ++row) update<1, kInput>(a, adamw, row, dx);
    }
  });
  if (kInput) {
    parallel_for(a.rows, blocks * size, a.threads, [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) {
        for_columns(a.inputs, [&](int64_t c, int64_t count) {
          Vec total = {};
          for (int64_t block = 0; block < blocks; ++block) {
            total += read(sums + block * size + k * a.inputs + c, count);
          }
          write(a.dx + k * a.inputs + c, total, count);
        });
      }
    });
    free(sums);
  }
  return true;
}

}  // namespace

void linear_forward(const LinearForward& args) {
  args.weight_bf16 ? forward_all(args, args.weight_bf16) : forward_all(args, args.weight);
}

bool linear_adamw(const LinearAdamW& args) { return args.dx ? step<true>(args) : step<false>(args); }

}  // namespace PYLLMCLF_SIMD
}  // namespace pyllmclf
