// A linear layer on few rows: products that cost less than moving the weight.
//
// Forward, the weight is read once, as it lies. Backward, it is read once for the input's gradient, its own gradient
// and AdamW's step (Loshchilov and Hutter 2019), and its own gradient is never in memory.
#include <stdlib.h>

#include "ops.h"
#include "simd.h"

namespace pyllmclf {
namespace PYLLMCLF_SIMD {
namespace {

// Rows of the weight that are done together: each vector of x and dx is loaded once for all of them.
constexpr int kTogether = 4;
// Rows of x that are done together, going forward.
constexpr int kRowsForward = 4;

// kRows rows of y at kOutputs columns.
template <int kRows, int kOutputs>
void forward(const LinearForward& a, int64_t row, int64_t output) {
  const float* x = a.x + row * a.x_row;
  const float* weight = a.weight + output * a.inputs;
  Vec sums[kRows][kOutputs] = {};
  for_columns(a.inputs, [&](int64_t c, int64_t count) {
    Vec right[kOutputs];
    for (int j = 0; j < kOutputs; ++j) {
      // Of the outputs that come next; the processor does not see so many short streams coming.
      __builtin_prefetch(weight + (kOutputs + j) * a.inputs + c);
      right[j] = read(weight + j * a.inputs + c, count);
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

template <int kOutputs>
void forward_outputs(const LinearForward& a, int64_t output) {
  int64_t row = 0;
  for (; row + kRowsForward <= a.rows; row += kRowsForward) forward<kRowsForward, kOutputs>(a, row, output);
  for (; row < a.rows; ++row) forward<1, kOutputs>(a, row, output);
}

struct Moments {
  Vec keep, first, first_rest, second, second_rest, root, eps, step;

  explicit Moments(const LinearAdamW& a)
      : keep(splat(a.keep)),
        first(splat(a.beta1)),
        first_rest(splat(a.beta1_rest)),
        second(splat(a.beta2)),
        second_rest(splat(a.beta2_rest)),
        root(splat(a.inverse_root)),
        eps(splat(a.eps)),
        step(splat(a.step_size)) {}
};

// kRows rows of the weight; the gradient of the input is added to dx [rows, inputs].
template <int kRows, bool kInput>
void update(const LinearAdamW& a, const Moments& m, int64_t row, float* dx) {
  for_columns(a.inputs, [&](int64_t c, int64_t count) {
    Vec weight[kRows], gradient[kRows] = {};
    // The rows that come next; the processor does not see so many streams of so few pages coming.
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
      const Vec mean = m.first * read(a.exp_avg + at, count) + m.first_rest * gradient[i];
      const Vec square = m.second * read(a.exp_avg_sq + at, count) + m.second_rest * (gradient[i] * gradient[i]);
      write(a.exp_avg + at, mean, count);
      write(a.exp_avg_sq + at, square, count);
      write(a.weight + at, weight[i] * m.keep - m.step * mean / (sqrt(square) * m.root + m.eps), count);
    }
  });
}

// Outputs are cut into blocks, each done by one thread with a sum of dx of its own; the cut depends on the shape alone.
template <bool kInput>
bool step(const LinearAdamW& a) {
  constexpr int64_t kBlockRows = kInput ? 96 : kTogether;
  const Moments moments(a);
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
      for (; row + kTogether <= last; row += kTogether) update<kTogether, kInput>(a, moments, row, dx);
      for (; row < last; ++row) update<1, kInput>(a, moments, row, dx);
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
  const int64_t groups = (args.outputs + kTogether - 1) / kTogether;
  parallel_for(groups, args.outputs * args.inputs, args.threads, [&](int64_t begin, int64_t end) {
    for (int64_t group = begin; group < end; ++group) {
      const int64_t first = group * kTogether;
      if (first + kTogether <= args.outputs) {
        forward_outputs<kTogether>(args, first);
      } else {
        for (int64_t output = first; output < args.outputs; ++output) forward_outputs<1>(args, output);
      }
    }
  });
}

bool linear_adamw(const LinearAdamW& args) { return args.dx ? step<true>(args) : step<false>(args); }

}  // namespace PYLLMCLF_SIMD
}  // namespace pyllmclf
