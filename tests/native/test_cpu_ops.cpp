// Compares every CPU op, in each SIMD build that this processor runs, with its formula, and its bits with 1, 2 and 3
// threads. Outputs are pre-filled with NaN. The bf16 products are also compared in builds over the model of AMX's
// tiles; and in the build for AMX itself, whose tile instructions the model executes where the processor has none.
#include <array>
#include <cstring>
#include <functional>
#include <numeric>
#include <string>

#include "check.h"
#include "formulas.h"
#include "ops.h"
#include "tile_counts.h"
#include "tile_trap.h"

namespace pyllmclf {
namespace amx_bf16 {
extern const CpuOps ops;
}
namespace modelled_tiles {
extern const CpuOps ops;
}
namespace modelled_tiles_avx512 {
extern const CpuOps ops;
}
}  // namespace pyllmclf

namespace {

using check::as_double;
using check::nans;
using pyllmclf::CpuOps;
using std::int32_t;
using std::int64_t;
using Floats = std::vector<float>;

constexpr double kTolerance = 1e-5;
// Each operand is rounded by at most 2^-9 of itself, and a result has several rounded factors.
constexpr double kBf16Tolerance = 1.0 / 64;

// Returns the outputs of run(threads), after checking that they have the same bits for 1, 2 and 3 threads.
std::vector<Floats> same_bits(const std::function<std::vector<Floats>(int)>& run, const std::string& what) {
  const std::vector<Floats> one = run(1);
  for (const int threads : {2, 3}) {
    const std::vector<Floats> other = run(threads);
    for (std::size_t i = 0; i < one.size(); ++i) {
      const bool equal =
          one[i].size() == other[i].size() &&
          (one[i].empty() || !std::memcmp(one[i].data(), other[i].data(), one[i].size() * sizeof(float)));
      check::that(equal, what + ": output " + std::to_string(i) + " with " + std::to_string(threads) + " threads");
    }
  }
  return one;
}

float as_bf16(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  bits = (bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000u;
  std::memcpy(&x, &bits, sizeof bits);
  return x;
}

float from_bf16(std::uint16_t half) {
  const std::uint32_t bits = static_cast<std::uint32_t>(half) << 16;
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

void test_layer_norm(const CpuOps& ops, int64_t rows, int64_t width, bool fused, const std::string& build) {
  const std::string what = build + " layer_norm " + std::to_string(rows) + " x " + std::to_string(width);
  check::Random random(1);
  const int64_t size = rows * width;
  const Floats x = random.normal(size), residual = random.normal(fused ? size : 0), weight = random.normal(width);
  const Floats bias = random.normal(width), dy = random.normal(size), dsum = random.normal(fused ? size : 0);
  const auto expected = formulas::layer_norm(as_double(x), as_double(residual), as_double(weight), as_double(bias),
                                             1e-5, as_double(dy), as_double(dsum));
  const auto actual = same_bits(
      [&](int threads) {
        Floats y = nans<float>(size), sum = nans<float>(fused ? size : 0), mean = nans<float>(rows);
        Floats rstd = nans<float>(rows), ds = nans<float>(size), dweight = nans<float>(width);
        Floats dbias = nans<float>(width), frozen = nans<float>(size);
        ops.layer_norm_forward({x.data(), fused ? residual.data() : nullptr, weight.data(), bias.data(), y.data(),
                                fused ? sum.data() : nullptr, mean.data(), rstd.data(), rows, width, 1e-5f, threads});
        pyllmclf::LayerNormBackward args = {dy.data(),
                                            fused ? dsum.data() : nullptr,
                                            fused ? sum.data() : x.data(),
                                            weight.data(),
                                            mean.data(),
                                            rstd.data(),
                                            ds.data(),
                                            dweight.data(),
                                            dbias.data(),
                                            rows,
                                            width,
                                            threads};
        check::that(ops.layer_norm_backward(args), what + ": memory");
        args.ds = frozen.data();
        args.dweight = args.dbias = nullptr;
        check::that(ops.layer_norm_backward(args), what + ": memory");
        Floats dweight_alone = nans<float>(width), dbias_alone = dweight_alone;
        args.ds = nullptr;
        args.dweight = dweight_alone.data();
        args.dbias = dbias_alone.data();
        check::that(ops.layer_norm_backward(args), what + ": memory");
        return std::vector<Floats>{y, sum, ds, dweight, dbias, frozen, dweight_alone, dbias_alone};
      },
      what);
  check::close(actual[0], expected.y, kTolerance, what + ": y");
  if (fused) check::close(actual[1], expected.s, kTolerance, what + ": sum");
  check::close(actual[2], expected.ds, kTolerance, what + ": ds");
  check::close(actual[3], expected.dweight, kTolerance, what + ": dweight");
  check::close(actual[4], expected.dbias, kTolerance, what + ": dbias");
  check::close(actual[5], expected.ds, kTolerance, what + ": ds of frozen parameters");
  check::close(actual[6], expected.dweight, kTolerance, what + ": dweight of a frozen input");
  check::close(actual[7], expected.dbias, kTolerance, what + ": dbias of a frozen input");
}

void test_rms_norm(const CpuOps& ops, int64_t rows, int64_t width, bool fused, float offset, const std::string& build) {
  const std::string what = build + " rms_norm " + std::to_string(rows) + " x " + std::to_string(width);
  check::Random random(11);
  const int64_t size = rows * width;
  const Floats x = random.normal(size), residual = random.normal(fused ? size : 0), weight = random.normal(width);
  const Floats dy = random.normal(size), dsum = random.normal(fused ? size : 0);
  const auto expected = formulas::rms_norm(as_double(x), as_double(residual), as_double(weight), 1e-5, offset,
                                           as_double(dy), as_double(dsum));
  const auto actual = same_bits(
      [&](int threads) {
        Floats y = nans<float>(size), sum = nans<float>(fused ? size : 0), rstd = nans<float>(rows);
        Floats ds = nans<float>(size), dweight = nans<float>(width), frozen = ds, alone = dweight;
        ops.rms_norm_forward({x.data(), fused ? residual.data() : nullptr, weight.data(), y.data(),
                              fused ? sum.data() : nullptr, rstd.data(), rows, width, 1e-5f, offset, threads});
        pyllmclf::RmsNormBackward args = {dy.data(),
                                          fused ? dsum.data() : nullptr,
                                          fused ? sum.data() : x.data(),
                                          weight.data(),
                                          rstd.data(),
                                          ds.data(),
                                          dweight.data(),
                                          rows,
                                          width,
                                          offset,
                                          threads};
        check::that(ops.rms_norm_backward(args), what + ": memory");
        args.ds = frozen.data();
        args.dweight = nullptr;
        check::that(ops.rms_norm_backward(args), what + ": memory");
        args.ds = nullptr;
        args.dweight = alone.data();
        check::that(ops.rms_norm_backward(args), what + ": memory");
        return std::vector<Floats>{y, sum, ds, dweight, frozen, alone};
      },
      what);
  check::close(actual[0], expected.y, kTolerance, what + ": y");
  if (fused) check::close(actual[1], expected.s, kTolerance, what + ": sum");
  check::close(actual[2], expected.ds, kTolerance, what + ": ds");
  check::close(actual[3], expected.dweight, kTolerance, what + ": dweight");
  check::close(actual[4], expected.ds, kTolerance, what + ": ds of a frozen weight");
  check::close(actual[5], expected.dweight, kTolerance, what + ": dweight of a frozen input");
}

// gate and up are the halves of each row, and so are their gradients.
void test_gated(const CpuOps& ops, int64_t rows, int64_t width, pyllmclf::Activation activation,
                const std::string& build) {
  const int kind = static_cast<int>(activation);
  const std::string what = build + " gated, activation " + std::to_string(kind) + ", " + std::to_string(rows) + " x " +
                           std::to_string(width);
  check::Random random(12);
  Floats both = random.normal(rows * 2 * width);
  for (float& value : both) value *= 3.0f;
  const Floats dy = random.normal(rows * width);
  const auto actual = same_bits(
      [&](int threads) {
        Floats y = nans<float>(rows * width), dboth = nans<float>(rows * 2 * width);
        const float *gate = both.data(), *up = gate + width;
        ops.gated_forward({gate, up, 2 * width, 2 * width, y.data(), nullptr, rows, width, activation, threads});
        std::vector<std::uint16_t> halves(y.size());
        ops.gated_forward({gate, up, 2 * width, 2 * width, nullptr, halves.data(), rows, width, activation, threads});
        for (std::size_t i = 0; i < y.size(); ++i) {
          const float rounded_y = as_bf16(y[i]), found = from_bf16(halves[i]);
          check::that(found == rounded_y || std::fabs(rounded_y) < 1.2e-38f, what + ": bf16");
        }
        ops.gated_backward({dy.data(), gate, up, 2 * width, 2 * width, dboth.data(), dboth.data() + width, 2 * width,
                            2 * width, rows, width, activation, threads});
        return std::vector<Floats>{y, dboth};
      },
      what);
  std::vector<double> y(dy.size()), dboth(both.size());
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t c = 0; c < width; ++c) {
      const auto at = formulas::at(row, 2 * width, c), other = formulas::at(row, 2 * width, width + c);
      const double x = both[at], up = both[other], gradient = dy[formulas::at(row, width, c)];
      const bool tanh = activation == pyllmclf::Activation::kGeluTanh;
      const double value = kind == 0 ? formulas::silu(x) : formulas::gelu(x, tanh);
      const double slope = kind == 0 ? formulas::silu_derivative(x) : formulas::gelu_derivative(x, tanh);
      y[formulas::at(row, width, c)] = value * up;
      dboth[at] = gradient * up * slope;
      dboth[other] = gradient * value;
    }
  }
  check::close(actual[0], y, kTolerance, what + ": y");
  check::close(actual[1], dboth, kTolerance, what + ": dgate and dup");
}

void test_rotary(const CpuOps& ops, int64_t rows, int64_t heads, int64_t half, int64_t rest, const std::string& build) {
  const std::string what = build + " rotary of " + std::to_string(rows) + " rows, " + std::to_string(half);
  check::Random random(13);
  const int64_t width = 2 * heads * half + rest, row_stride = width + 3;
  const Floats x = random.normal(rows * row_stride), cosine = random.normal(rows * half);
  const Floats sine = random.normal(rows * half);
  for (const bool inverse : {false, true}) {
    const auto actual = same_bits(
        [&](int threads) {
          Floats y = nans<float>(rows * width);
          ops.rotary_rows(
              {x.data(), row_stride, cosine.data(), sine.data(), y.data(), rows, heads, half, rest, inverse, threads});
          return std::vector<Floats>{y};
        },
        what);
    std::vector<double> expected(static_cast<std::size_t>(rows * width));
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t c = 0; c < width; ++c) {
        double& y = expected[formulas::at(row, width, c)];
        y = x[formulas::at(row, row_stride, c)];
        if (c >= 2 * heads * half) continue;
        const bool low = c % (2 * half) < half;
        const double other = x[formulas::at(row, row_stride, low ? c + half : c - half)];
        const double s = (inverse ? -1.0 : 1.0) * sine[formulas::at(row, half, c % half)];
        y = y * cosine[formulas::at(row, half, c % half)] + (low ? -other * s : other * s);
      }
    }
    check::close(actual[0], expected, kTolerance, what);
  }
}

void test_gelu(const CpuOps& ops, int64_t rows, int64_t width, bool tanh, bool with_bias, const std::string& build) {
  const std::string what = build + " gelu " + (tanh ? "tanh " : "exact ") + std::to_string(rows) + " x " +
                           std::to_string(width) + (with_bias ? " with bias" : "");
  check::Random random(2);
  const int64_t size = rows * width;
  Floats x = random.normal(size);
  for (float& value : x) value *= 3.0f;
  const Floats bias = random.normal(with_bias ? width : 0), dy = random.normal(size);
  const auto expected = formulas::gelu(as_double(x), as_double(bias), width, tanh, as_double(dy));
  const auto actual = same_bits(
      [&](int threads) {
        Floats y = nans<float>(size), dx = dy, dbias = nans<float>(with_bias ? width : 0);
        const float* b = with_bias ? bias.data() : nullptr;
        ops.gelu_forward({x.data(), b, y.data(), nullptr, rows, width, tanh, threads});
        std::vector<std::uint16_t> halves(y.size());
        ops.gelu_forward({x.data(), b, nullptr, halves.data(), rows, width, tanh, threads});
        for (std::size_t i = 0; i < y.size(); ++i) {
          const float rounded_y = as_bf16(y[i]), found = from_bf16(halves[i]);
          // AVX512-BF16 takes numbers below 2^-126 for 0.
          check::that(found == rounded_y || std::fabs(rounded_y) < 1.2e-38f, what + ": bf16");
        }
        // dx aliases dy, as the interface allows.
        check::that(ops.gelu_backward({dx.data(), x.data(), b, dx.data(), with_bias ? dbias.data() : nullptr, rows,
                                       width, tanh, threads}),
                    what + ": memory");
        return std::vector<Floats>{y, dx, dbias};
      },
      what);
  check::close(actual[0], expected.y, kTolerance, what + ": y");
  check::close(actual[1], expected.dx, kTolerance, what + ": dx");
  if (with_bias) check::close(actual[2], expected.dbias, kTolerance, what + ": dbias");
}

void test_embedding(const CpuOps& ops, int64_t rows, int64_t width, bool typed, const std::string& build) {
  const std::string what = build + " embedding " + std::to_string(rows) + " x " + std::to_string(width) +
                           (typed ? " with types" : "");
  check::Random random(3);
  const std::vector<int32_t> ids = random.below(11, rows), positions = random.below(5, rows);
  const std::vector<int32_t> types = random.below(2, typed ? rows : 0);
  const int32_t* kinds = typed ? types.data() : nullptr;
  const Floats token = random.normal(11 * width), position = random.normal(5 * width), type = random.normal(2 * width);
  const Floats weight = random.normal(width), bias = random.normal(width), dy = random.normal(rows * width);
  const auto sum =
      formulas::embedding(ids, positions, types, as_double(token), as_double(position), as_double(type), width);
  const auto normed = formulas::layer_norm(sum, {}, as_double(weight), as_double(bias), 1e-5, as_double(dy), {});
  const auto actual = same_bits(
      [&](int threads) {
        Floats y = nans<float>(rows * width), norm = y, mean = nans<float>(rows), rstd = mean, dtable = token;
        pyllmclf::EmbeddingForward args = {
            ids.data(), positions.data(), kinds,   token.data(), position.data(), type.data(), nullptr, nullptr,
            y.data(),   nullptr,          nullptr, rows,         width,           1e-5f,       threads};
        ops.embedding_forward(args);
        args.norm_weight = weight.data();
        args.norm_bias = bias.data();
        args.y = norm.data();
        args.mean = mean.data();
        args.rstd = rstd.data();
        ops.embedding_forward(args);
        ops.embedding_backward({dy.data(), ids.data(), dtable.data(), rows, width, threads});
        Floats dtype = type;
        ops.embedding_backward({dy.data(), kinds, dtype.data(), rows, width, threads});
        return std::vector<Floats>{y, norm, dtable, dtype};
      },
      what);
  check::close(actual[0], sum, kTolerance, what + ": sum");
  check::close(actual[1], normed.y, kTolerance, what + ": norm");
  check::close(actual[2], formulas::embedding_backward(ids, as_double(dy), as_double(token), width), kTolerance,
               what + ": dtable");
  const std::vector<int32_t> zeros(ids.size());
  const auto dtype = formulas::embedding_backward(typed ? types : zeros, as_double(dy), as_double(type), width);
  check::close(actual[3], dtype, kTolerance, what + ": dtable of the types");
}

void test_dropout(const CpuOps& ops, int64_t rows, int64_t width, const std::string& build) {
  const std::string what = build + " dropout " + std::to_string(rows) + " x " + std::to_string(width);
  const pyllmclf::Dropout dropout = {1, 2, 3, 0x40000000u, 1.0f / 0.75f};  // p = 1/4
  const Floats ones(static_cast<std::size_t>(rows * width), 1.0f);
  std::vector<int64_t> examples(static_cast<std::size_t>(rows));
  std::iota(examples.begin(), examples.end(), int64_t{100});
  const std::vector<int32_t> positions(static_cast<std::size_t>(rows), 7);
  const auto actual = same_bits(
      [&](int threads) {
        Floats y = nans<float>(rows * width);
        ops.dropout_rows({ones.data(), y.data(), examples.data(), positions.data(), rows, width, dropout, threads});
        return std::vector<Floats>{y};
      },
      what);
  double kept = 0.0;
  for (const float value : actual[0]) {
    check::that(value == 0.0f || value == dropout.scale, what + ": a value is neither dropped nor scaled");
    kept += value != 0.0f ? 1.0 : 0.0;
  }
  if (rows * width > 10000) {
    check::that(std::fabs(kept / static_cast<double>(rows * width) - 0.75) < 0.01, what + ": rate");
  }
}

// bf16 rows, each followed by a zero where the width is odd, and the numbers they hold.
struct Rounded {
  std::vector<std::uint16_t> rows;
  int64_t stride;
  std::vector<double> numbers;
};

// `gap`: an even number of NaNs between rows.
Rounded rounded(const Floats& x, int64_t width, int64_t gap = 0) {
  Rounded out = {{}, width + width % 2 + gap, {}};
  for (std::size_t i = 0; i < x.size(); ++i) {
    const float number = as_bf16(x[i]);
    std::uint32_t bits;
    std::memcpy(&bits, &number, sizeof bits);
    out.numbers.push_back(number);
    out.rows.push_back(static_cast<std::uint16_t>(bits >> 16));
    if (static_cast<int64_t>(i) % width < width - 1) continue;
    if (width % 2) out.rows.push_back(0);
    out.rows.insert(out.rows.end(), static_cast<std::size_t>(gap), 0x7fc0);
  }
  return out;
}

void test_linear(const CpuOps& ops, int64_t rows, int64_t outputs, int64_t inputs, const std::string& build) {
  const std::string what =
      build + " linear " + std::to_string(rows) + " x " + std::to_string(outputs) + " x " + std::to_string(inputs);
  check::Random random(1);
  const int64_t size = outputs * inputs;
  const Floats x = random.normal(rows * inputs), dy = random.normal(rows * outputs), weight = random.normal(size);
  const Floats bias = random.normal(outputs), exp_avg = random.normal(size);
  Floats exp_avg_sq = random.normal(size);
  for (float& value : exp_avg_sq) value *= value;
  const double beta1 = 0.9, beta2 = 0.99, eps = 1e-3, keep = 0.95, step_size = 0.3, inverse_root = 1.5;
  auto y = formulas::product(as_double(x), false, as_double(weight), true, rows, inputs, outputs);
  for (std::size_t i = 0; i < y.size(); ++i) y[i] += bias[i % bias.size()];
  const auto dx = formulas::product(as_double(dy), false, as_double(weight), false, rows, outputs, inputs);
  const auto gradient = formulas::product(as_double(dy), true, as_double(x), false, outputs, rows, inputs);
  auto stepped = as_double(weight), mean = as_double(exp_avg), square = as_double(exp_avg_sq);
  for (std::size_t i = 0; i < gradient.size(); ++i) {
    mean[i] = beta1 * mean[i] + (1 - beta1) * gradient[i];
    square[i] = beta2 * square[i] + (1 - beta2) * gradient[i] * gradient[i];
    stepped[i] = keep * stepped[i] - step_size * mean[i] / (std::sqrt(square[i]) * inverse_root + eps);
  }
  const auto actual = same_bits(
      [&](int threads) {
        Floats out = nans<float>(rows * outputs), input = nans<float>(rows * inputs);
        ops.linear_forward({x.data(), inputs, weight.data(), bias.data(), out.data(), rows, outputs, inputs, threads});
        Floats rounded_weight, out_kept = nans<float>(rows * outputs), out_rounded = out_kept;
        const Rounded kept = rounded(weight, size);
        for (int64_t i = 0; i < size; ++i) rounded_weight.push_back(from_bf16(kept.rows[static_cast<std::size_t>(i)]));
        ops.linear_forward(
            {x.data(), inputs, rounded_weight.data(), bias.data(), out_rounded.data(), rows, outputs, inputs, threads});
        ops.linear_forward({x.data(), inputs, nullptr, bias.data(), out_kept.data(), rows, outputs, inputs, threads,
                            kept.rows.data()});
        check::that(out_kept == out_rounded, what + ": a weight in bf16");
        std::vector<Floats> results = {out};
        for (float* to : {input.data(), static_cast<float*>(nullptr)}) {
          Floats w = weight, m = exp_avg, v = exp_avg_sq;
          check::that(ops.linear_adamw({dy.data(), x.data(), outputs, inputs, w.data(), m.data(), v.data(),
                                        to,        rows,     outputs, inputs, 0.9f,     0.1f,     0.99f,
                                        0.01f,     1e-3f,    0.95f,   0.3f,   1.5f,     threads}),
                      what + ": memory");
          results.insert(results.end(), {w, m, v});
        }
        results.push_back(input);
        return results;
      },
      what);
  check::close(actual[0], y, kTolerance, what + ": y");
  for (const std::size_t first : {std::size_t{1}, std::size_t{4}}) {
    check::close(actual[first], stepped, kTolerance, what + ": weight");
    check::close(actual[first + 1], mean, kTolerance, what + ": mean");
    check::close(actual[first + 2], square, kTolerance, what + ": square");
  }
  check::close(actual[7], dx, kTolerance, what + ": dx");
}

// Rows of `width`, and NaNs between them.
Floats apart(const Floats& x, int64_t width, int64_t gap) {
  Floats out;
  for (std::size_t i = 0; i < x.size(); ++i) {
    out.push_back(x[i]);
    if (static_cast<int64_t>(i) % width == width - 1) {
      out.insert(out.end(), static_cast<std::size_t>(gap), std::nanf(""));
    }
  }
  return out;
}

// `gap`: an even number of elements between rows of operands.
void test_bf16_linear(const CpuOps& ops, int64_t rows, int64_t outputs, int64_t inputs, int64_t gap,
                      const std::string& build) {
  const std::string what = build + " bf16 linear " + std::to_string(rows) + " x " + std::to_string(outputs) + " x " +
                           std::to_string(inputs) + (gap ? " with gaps" : "");
  check::Random random(1);
  const int64_t size = outputs * inputs, rank = 5;
  const Rounded x = rounded(random.normal(rows * inputs), inputs, gap);
  const Rounded dy = rounded(random.normal(rows * outputs), outputs, gap);
  const Rounded thin = rounded(random.normal(rows * rank), rank, gap);
  const Floats weight = random.normal(size), bias = random.normal(outputs), factor = random.normal(outputs * rank);
  const Floats weight_rows = apart(weight, inputs, gap), factor_rows = apart(factor, rank, gap);
  Floats halves;
  for (const float number : factor) halves.push_back(0.5f * number);
  const auto w = rounded(weight, inputs).numbers;
  auto y = formulas::product(x.numbers, false, w, true, rows, inputs, outputs);
  const auto low = formulas::product(thin.numbers, false, rounded(halves, rank).numbers, true, rows, rank, outputs);
  for (std::size_t i = 0; i < y.size(); ++i) y[i] += bias[i % bias.size()] + low[i];
  const auto dx = formulas::product(dy.numbers, false, w, false, rows, outputs, inputs);
  const auto gradient = formulas::product(dy.numbers, true, x.numbers, false, outputs, rows, inputs);
  auto twice = gradient, stepped = as_double(weight);
  for (double& number : twice) number *= 2;
  // Moments that start at 0, without momentum: a step of lr gradient / (|gradient| + eps).
  const float lr = 0.25f, eps = 0.5f;
  for (std::size_t i = 0; i < stepped.size(); ++i) stepped[i] -= lr * gradient[i] / (std::fabs(gradient[i]) + eps);
  const auto actual = same_bits(
      [&](int threads) {
        Floats out = nans<float>(rows * outputs), input = nans<float>(rows * inputs), found = nans<float>(size);
        const pyllmclf::Bf16Operands none = {};
        check::that(ops.bf16_linear({{x.rows.data(), x.stride, weight_rows.data(), inputs + gap, inputs, 1.0f},
                                     {thin.rows.data(), thin.stride, factor_rows.data(), rank + gap, rank, 0.5f},
                                     false,
                                     bias.data(),
                                     out.data(),
                                     rows,
                                     outputs,
                                     threads}),
                    what + ": memory");
        check::that(ops.bf16_linear({{dy.rows.data(), dy.stride, weight_rows.data(), inputs + gap, outputs, 1.0f},
                                     none,
                                     true,
                                     nullptr,
                                     input.data(),
                                     rows,
                                     inputs,
                                     threads}),
                    what + ": memory");
        // A weight in bf16 gives the bits of one that is rounded as it is read.
        const Rounded kept = rounded(weight, inputs, gap);
        Floats out_kept = nans<float>(rows * outputs), input_kept = nans<float>(rows * inputs);
        pyllmclf::Bf16Operands base = {x.rows.data(), x.stride, nullptr, kept.stride, inputs, 1.0f, kept.rows.data()};
        const pyllmclf::Bf16Operands adapter = {thin.rows.data(), thin.stride, factor_rows.data(),
                                                rank + gap,       rank,        0.5f};
        check::that(ops.bf16_linear({base, adapter, false, bias.data(), out_kept.data(), rows, outputs, threads}),
                    what + ": memory");
        base.x = dy.rows.data(), base.x_row = dy.stride, base.inputs = outputs;
        check::that(ops.bf16_linear({base, none, true, nullptr, input_kept.data(), rows, inputs, threads}),
                    what + ": memory");
        check::that(out_kept == out && input_kept == input, what + ": a weight in bf16");
        pyllmclf::Bf16WeightGradient args = {};
        args.dy = dy.rows.data(), args.x = x.rows.data(), args.dy_row = dy.stride, args.x_row = x.stride;
        args.rows = rows, args.outputs = outputs, args.inputs = inputs, args.threads = threads;
        args.gradient = found.data();
        check::that(ops.bf16_weight_gradient(args), what + ": memory");
        Floats sum = found;
        args.gradient = sum.data(), args.accumulate = true;
        check::that(ops.bf16_weight_gradient(args), what + ": memory");
        Floats moved = weight, mean(weight.size()), square(weight.size());
        args.gradient = nullptr, args.weight = moved.data(), args.exp_avg = mean.data();
        args.exp_avg_sq = square.data();
        args.adamw = {0.0f, 1.0f, 0.0f, 1.0f, eps, 1.0f, lr, 1.0f};
        check::that(ops.bf16_weight_gradient(args), what + ": memory");
        return std::vector<Floats>{out, input, found, sum, moved};
      },
      what);
  check::that(pyllmclf::tile_model::configured_threads == 0, what + ": tiles are released");
  check::close(actual[0], y, kTolerance, what + ": y");
  check::close(actual[1], dx, kTolerance, what + ": dx");
  check::close(actual[2], gradient, kTolerance, what + ": gradient");
  check::close(actual[3], twice, kTolerance, what + ": sum of gradients");
  check::close(actual[4], stepped, kTolerance, what + ": weight");
}

// Sizes around those of vectors and of AMX's tiles; a gradient of more than 64 outputs has a path of its own.
void test_bf16_sizes(const CpuOps& ops, const std::string& build) {
  const std::vector<std::array<int64_t, 3>> shapes = {{0, 8, 8},     {5, 3, 7},      {530, 70, 20}, {3, 20, 4200},
                                                      {2100, 9, 50}, {2100, 97, 50}, {7, 70, 4100}, {240, 200, 130}};
  for (const auto& [rows, outputs, inputs] : shapes) {
    test_bf16_linear(ops, rows, outputs, inputs, 0, build);
  }
  const std::vector<int64_t> sizes = {1, 15, 16, 17, 31, 32, 33, 65};
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    for (std::size_t j = 0; j < sizes.size(); ++j) {
      const int64_t third = sizes[(i + j) % sizes.size()], gap = (i + j / 2) % 2 ? 6 : 0;
      test_bf16_linear(ops, sizes[i], sizes[j], third, gap, build);
      test_bf16_linear(ops, sizes[i], 64 + third, sizes[j], gap, build);
    }
  }
}

// Columns [first, first + count) of rows of `width`.
Floats columns(const Floats& x, int64_t width, int64_t first, int64_t count) {
  Floats out;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const int64_t column = static_cast<int64_t>(i) % width;
    if (column >= first && column < first + count) out.push_back(x[i]);
  }
  return out;
}

struct AttentionCase {
  std::vector<int32_t> lengths;
  int64_t heads, depth;
  formulas::Mask mask;
  int32_t queries = 0;   // number of last rows of each text that are queries; 0: all
  bool dropout = false;  // p = 1/4
  bool bf16 = false;     // operands of the products
  int64_t group = 1;     // heads of queries that share one of keys and values
};

// q, k, v and their gradients have the row stride of a fused query-key-value product, 3 heads head_dim.
void test_attention(const CpuOps& ops, const AttentionCase& c, const std::string& build) {
  const std::string what = build + " attention of " + std::to_string(c.lengths.size()) + " texts, head_dim " +
                           std::to_string(c.depth) + (c.mask.causal ? ", causal" : "") +
                           (c.mask.window_left >= 0 ? ", window" : "") + (c.queries ? ", last rows" : "") +
                           (c.dropout ? ", dropout" : "") + (c.bf16 ? ", bf16" : "") +
                           (c.group > 1 ? ", grouped heads" : "");
  check::Random random(4);
  std::vector<int32_t> cu_q = {0}, cu_k = {0}, positions;
  std::vector<int64_t> examples;
  for (const int32_t length : c.lengths) {
    const int32_t count = c.queries ? std::min(c.queries, length) : length;
    for (int32_t i = length - count; i < length; ++i) positions.push_back(i);
    cu_q.push_back(cu_q.back() + count);
    cu_k.push_back(cu_k.back() + length);
    examples.push_back(1000 + length);
  }
  const int64_t rows_q = cu_q.back(), rows_k = cu_k.back(), row = c.heads * c.depth, stride = 3 * row;
  const Floats q = random.normal(rows_q * stride), kv = random.normal(rows_k * stride),
               dout = random.normal(rows_q * row);
  pyllmclf::AttentionShape shape = {};
  shape.cu_seqlens_q = cu_q.data();
  shape.cu_seqlens_k = cu_k.data();
  shape.query_positions = c.queries ? positions.data() : nullptr;
  shape.example_ids = examples.data();
  shape.texts = static_cast<int64_t>(c.lengths.size());
  shape.heads = c.heads;
  shape.kv_heads = c.heads / c.group;
  shape.head_dim = c.depth;
  shape.scale = 1.0f / std::sqrt(static_cast<float>(c.depth));
  shape.causal = c.mask.causal;
  shape.window_left = c.mask.window_left;
  shape.window_right = c.mask.window_right;
  shape.bf16 = c.bf16;
  if (c.dropout) shape.dropout = {1, 2, 3, 0x40000000u, 1.0f / 0.75f};

  const auto actual = same_bits(
      [&](int threads) {
        Floats out = nans<float>(rows_q * row), dq = nans<float>(rows_q * stride), dkv = nans<float>(rows_k * stride);
        Floats log_sum_exp = nans<float>(c.heads * rows_q);
        pyllmclf::AttentionShape s = shape;
        s.threads = threads;
        const auto part = [&](const Floats& x, int64_t i) {
          return pyllmclf::Heads{x.data() + i * row, stride, c.depth};
        };
        const auto mutable_part = [&](Floats& x, int64_t i) {
          return pyllmclf::MutableHeads{x.data() + i * row, stride, c.depth};
        };
        const pyllmclf::Heads outputs = {out.data(), row, c.depth}, douts = {dout.data(), row, c.depth};
        check::that(ops.attention_forward(
                        {s, part(q, 0), part(kv, 1), part(kv, 2), {out.data(), row, c.depth}, log_sum_exp.data()}),
                    what + ": memory");
        check::that(ops.attention_backward({s, part(q, 0), part(kv, 1), part(kv, 2), outputs, douts, log_sum_exp.data(),
                                            mutable_part(dq, 0), mutable_part(dkv, 1), mutable_part(dkv, 2)}),
                    what + ": memory");
        const int64_t kv_row = row / c.group;
        return std::vector<Floats>{out, columns(dq, stride, 0, row), columns(dkv, stride, row, kv_row),
                                   columns(dkv, stride, 2 * row, kv_row)};
      },
      what);

  const int64_t kv_row = row / c.group;
  std::vector<double> out(formulas::at(rows_q, row, 0)), dq = out, dk(formulas::at(rows_k, kv_row, 0)), dv = dk;
  for (std::size_t t = 0; t < c.lengths.size(); ++t) {
    for (int64_t head = 0; head < c.heads; ++head) {
      const int64_t kv_head = head / c.group;
      const auto part = [&](const Floats& x, int64_t width, int64_t first, const std::vector<int32_t>& cu) {
        std::vector<double> rows;
        for (int64_t i = cu[t]; i < cu[t + 1]; ++i) {
          for (int64_t d = 0; d < c.depth; ++d) rows.push_back(x[formulas::at(i, width, first + d)]);
        }
        return rows;
      };
      const auto add = [&](const std::vector<double>& rows, std::vector<double>& x, int64_t width, int64_t first,
                           const std::vector<int32_t>& cu) {
        for (std::size_t i = 0; i < rows.size(); ++i) {
          const int64_t at = static_cast<int64_t>(i);
          x[formulas::at(cu[t] + at / c.depth, width, first + at % c.depth)] += rows[i];
        }
      };
      const std::vector<int32_t> text_positions(positions.begin() + cu_q[t], positions.begin() + cu_q[t + 1]);
      const auto factor = [&](int64_t query, int64_t key) {
        if (!c.dropout) return 1.0;
        const auto stream = shape.dropout.stream | static_cast<std::uint32_t>(head) << 16;
        const std::uint32_t word =
            formulas::philox(static_cast<std::uint32_t>(key),
                             static_cast<std::uint32_t>(text_positions[static_cast<std::size_t>(query)]),
                             static_cast<std::uint32_t>(examples[t]), stream, shape.dropout.seed, shape.dropout.step);
        return word >= shape.dropout.threshold ? 1.0 / 0.75 : 0.0;
      };
      const auto one = formulas::attention(
          part(q, stride, head * c.depth, cu_q), part(kv, stride, row + kv_head * c.depth, cu_k),
          part(kv, stride, 2 * row + kv_head * c.depth, cu_k), part(dout, row, head * c.depth, cu_q), c.depth,
          text_positions, c.mask, 1.0 / std::sqrt(static_cast<double>(c.depth)), factor);
      add(one.out, out, row, head * c.depth, cu_q);
      add(one.dq, dq, row, head * c.depth, cu_q);
      add(one.dk, dk, kv_row, kv_head * c.depth, cu_k);
      add(one.dv, dv, kv_row, kv_head * c.depth, cu_k);
    }
  }
  const double tolerance = c.bf16 ? kBf16Tolerance : kTolerance;
  check::close(actual[0], out, tolerance, what + ": out");
  check::close(actual[1], dq, tolerance, what + ": dq");
  check::close(actual[2], dk, tolerance, what + ": dk");
  check::close(actual[3], dv, tolerance, what + ": dv");
}

}  // namespace

int main() {
  int builds = 0;
  [[maybe_unused]] bool has_amx = false;
  std::vector<pyllmclf::SimdBuild> models = {{"tile model", &pyllmclf::modelled_tiles::ops}};
  for (const pyllmclf::SimdBuild* build = pyllmclf::simd_builds(&builds); builds > 0; --builds, ++build) {
    const CpuOps& ops = *build->ops;
    const std::string name = build->name;
    has_amx = has_amx || name == "amx-bf16";
#ifdef PYLLMCLF_WITH_MODELLED_TILES_AVX512
    if (name == "avx512-bf16") models.push_back({"tile model, AVX512-BF16", &pyllmclf::modelled_tiles_avx512::ops});
#endif
#ifdef PYLLMCLF_WITH_AMX_BF16
    if (name == "avx512-bf16" && !has_amx && trap_tile_instructions()) {
      models.push_back({"amx-bf16, tiles by the model", &pyllmclf::amx_bf16::ops});
    }
#endif
    for (const bool fused : {false, true}) {
      for (const auto& [rows, width] :
           std::vector<std::pair<int64_t, int64_t>>{{0, 8}, {1, 3}, {5, 13}, {70, 384}, {33, 1601}}) {
        test_layer_norm(ops, rows, width, fused, name);
      }
    }
    test_layer_norm(ops, 1400, 768, true, name);  // large enough for stores past the caches
    for (const bool fused : {false, true}) {
      for (const auto& [rows, width] :
           std::vector<std::pair<int64_t, int64_t>>{{0, 8}, {1, 3}, {5, 13}, {70, 384}, {33, 1601}}) {
        test_rms_norm(ops, rows, width, fused, fused ? 1.0f : 0.0f, name);
      }
    }
    for (const auto activation :
         {pyllmclf::Activation::kSilu, pyllmclf::Activation::kGeluTanh, pyllmclf::Activation::kGeluExact}) {
      for (const auto& [rows, width] : std::vector<std::pair<int64_t, int64_t>>{{0, 8}, {1, 1}, {67, 13}, {40, 1536}}) {
        test_gated(ops, rows, width, activation, name);
      }
    }
    test_rotary(ops, 0, 2, 4, 0, name);
    test_rotary(ops, 7, 3, 5, 6, name);
    test_rotary(ops, 120, 9, 32, 0, name);
    for (const bool tanh : {false, true}) {
      for (const bool bias : {false, true}) {
        for (const auto& [rows, width] :
             std::vector<std::pair<int64_t, int64_t>>{{0, 8}, {1, 1}, {67, 13}, {40, 3072}}) {
          test_gelu(ops, rows, width, tanh, bias, name);
        }
      }
    }
    for (const int64_t width : {7, 64, 768}) {
      for (const bool typed : {false, true}) test_embedding(ops, 90, width, typed, name);
    }
    for (const auto& [rows, outputs, inputs] :
         std::vector<std::array<int64_t, 3>>{{1, 1, 1}, {8, 2, 768}, {5, 203, 37}, {24, 100, 100}, {8, 768, 64}}) {
      test_linear(ops, rows, outputs, inputs, name);
    }
    test_bf16_sizes(ops, name);
    test_dropout(ops, 3, 5, name);
    test_dropout(ops, 200, 768, name);
    for (const bool causal : {false, true}) {
      const formulas::Mask mask = {causal, -1, -1}, window = {causal, 40, 3};
      for (const int64_t depth : {7, 16, 64, 80, 256}) test_attention(ops, {{33, 1, 70}, 2, depth, mask}, name);
      test_attention(ops, {{600, 30}, 1, 64, mask}, name);  // several chunks of queries and of keys
      test_attention(ops, {{33, 1, 5}, 3, 16, mask, 1}, name);
      test_attention(ops, {{}, 1, 8, mask}, name);
      test_attention(ops, {{33, 1, 70}, 6, 20, mask, 0, false, false, 3}, name);
      test_attention(ops, {{600, 30}, 2, 64, window, 0, true, false, 2}, name);
      test_attention(ops, {{33, 1, 5}, 4, 16, mask, 1, false, true, 4}, name);
      test_attention(ops, {{150, 2}, 2, 16, window}, name);
      test_attention(ops, {{150, 2}, 2, 16, mask, 0, true}, name);
      test_attention(ops, {{150, 2}, 2, 16, window, 5, true}, name);
      for (const int64_t depth : {7, 16, 64, 80, 256}) {
        test_attention(ops, {{33, 1, 71}, 2, depth, mask, 0, false, true}, name);
      }
      test_attention(ops, {{600, 31}, 1, 64, mask, 0, false, true}, name);
      test_attention(ops, {{150, 3}, 2, 16, window, 5, true, true}, name);
    }
    std::printf("%s done\n", name.c_str());
  }
  for (const auto& [name, ops] : models) {
    const int64_t products = pyllmclf::tile_model::products;
    test_bf16_sizes(*ops, name);
    check::that(pyllmclf::tile_model::products > products, std::string(name) + ": uses tiles");
    std::printf("%s done\n", name);
  }
  return check::finish("CPU ops");
}
