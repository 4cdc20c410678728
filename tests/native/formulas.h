// The formulas of the ops in double, the oracle of the native tests.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace formulas {

using Numbers = std::vector<double>;
using std::int64_t;
using std::size_t;

inline size_t at(int64_t row, int64_t width, int64_t column) { return static_cast<size_t>(row * width + column); }

// a [rows, inner] times b [inner, columns]. turn_a: a is stored as [inner, rows]; turn_b: b as [columns, inner].
inline Numbers product(const Numbers& a, bool turn_a, const Numbers& b, bool turn_b, int64_t rows, int64_t inner,
                       int64_t columns) {
  Numbers out(static_cast<size_t>(rows * columns));
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) {
      for (int64_t k = 0; k < inner; ++k) {
        const double left = turn_a ? a[at(k, rows, r)] : a[at(r, inner, k)];
        out[at(r, columns, c)] += left * (turn_b ? b[at(c, inner, k)] : b[at(k, columns, c)]);
      }
    }
  }
  return out;
}

struct LayerNorm {
  Numbers y, s, ds, dweight, dbias;
};

// residual and dsum may be empty.
inline LayerNorm layer_norm(const Numbers& x, const Numbers& residual, const Numbers& weight, const Numbers& bias,
                            double eps, const Numbers& dy, const Numbers& dsum) {
  const int64_t width = static_cast<int64_t>(weight.size()), rows = static_cast<int64_t>(x.size()) / width;
  LayerNorm out{Numbers(x.size()), x, Numbers(x.size()), Numbers(weight.size()), Numbers(weight.size())};
  for (size_t i = 0; i < residual.size(); ++i) out.s[i] += residual[i];
  for (int64_t r = 0; r < rows; ++r) {
    double mean = 0.0, variance = 0.0, mean_g = 0.0, mean_gn = 0.0;
    const double count = static_cast<double>(width);
    for (int64_t c = 0; c < width; ++c) mean += out.s[at(r, width, c)] / count;
    for (int64_t c = 0; c < width; ++c) variance += std::pow(out.s[at(r, width, c)] - mean, 2) / count;
    const double rstd = 1.0 / std::sqrt(variance + eps);
    for (int64_t c = 0; c < width; ++c) {
      const size_t i = at(r, width, c), column = static_cast<size_t>(c);
      const double n = (out.s[i] - mean) * rstd;
      out.y[i] = n * weight[column] + bias[column];
      out.dweight[column] += dy[i] * n;
      out.dbias[column] += dy[i];
      mean_g += dy[i] * weight[column] / count;
      mean_gn += dy[i] * weight[column] * n / count;
    }
    for (int64_t c = 0; c < width; ++c) {
      const size_t i = at(r, width, c);
      const double n = (out.s[i] - mean) * rstd;
      out.ds[i] =
          rstd * (dy[i] * weight[static_cast<size_t>(c)] - mean_g - n * mean_gn) + (dsum.empty() ? 0.0 : dsum[i]);
    }
  }
  return out;
}

struct RmsNorm {
  Numbers y, s, ds, dweight;
};

// residual and dsum may be empty.
inline RmsNorm rms_norm(const Numbers& x, const Numbers& residual, const Numbers& weight, double eps, double offset,
                        const Numbers& dy, const Numbers& dsum) {
  const int64_t width = static_cast<int64_t>(weight.size()), rows = static_cast<int64_t>(x.size()) / width;
  RmsNorm out{Numbers(x.size()), x, Numbers(x.size()), Numbers(weight.size())};
  for (size_t i = 0; i < residual.size(); ++i) out.s[i] += residual[i];
  for (int64_t r = 0; r < rows; ++r) {
    const double count = static_cast<double>(width);
    double square = 0.0, mean_gn = 0.0;
    for (int64_t c = 0; c < width; ++c) square += std::pow(out.s[at(r, width, c)], 2) / count;
    const double rstd = 1.0 / std::sqrt(square + eps);
    for (int64_t c = 0; c < width; ++c) {
      const size_t i = at(r, width, c), column = static_cast<size_t>(c);
      const double n = out.s[i] * rstd;
      out.y[i] = n * (offset + weight[column]);
      out.dweight[column] += dy[i] * n;
      mean_gn += dy[i] * (offset + weight[column]) * n / count;
    }
    for (int64_t c = 0; c < width; ++c) {
      const size_t i = at(r, width, c);
      const double g = dy[i] * (offset + weight[static_cast<size_t>(c)]);
      out.ds[i] = rstd * (g - out.s[i] * rstd * mean_gn) + (dsum.empty() ? 0.0 : dsum[i]);
    }
  }
  return out;
}

inline double gelu(double x, bool tanh) {
  if (!tanh) return 0.5 * x * std::erfc(-x * std::sqrt(0.5));
  return 0.5 * x * (1.0 + std::tanh(std::sqrt(2.0 / std::acos(-1.0)) * (x + 0.044715 * x * x * x)));
}

inline double gelu_derivative(double x, bool tanh) {
  const double pi = std::acos(-1.0);
  if (!tanh) return 0.5 * std::erfc(-x * std::sqrt(0.5)) + x * std::exp(-0.5 * x * x) / std::sqrt(2.0 * pi);
  const double t = std::tanh(std::sqrt(2.0 / pi) * (x + 0.044715 * x * x * x));
  return 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * std::sqrt(2.0 / pi) * (1.0 + 3.0 * 0.044715 * x * x);
}

inline double silu(double x) { return x / (1.0 + std::exp(-x)); }

inline double silu_derivative(double x) {
  const double s = 1.0 / (1.0 + std::exp(-x));
  return s * (1.0 + x * (1.0 - s));
}

struct Gelu {
  Numbers y, dx, dbias;
};

// bias may be empty.
inline Gelu gelu(const Numbers& x, const Numbers& bias, int64_t width, bool tanh, const Numbers& dy) {
  Gelu out{Numbers(x.size()), Numbers(x.size()), Numbers(static_cast<size_t>(width))};
  for (size_t i = 0; i < x.size(); ++i) {
    const size_t column = i % static_cast<size_t>(width);
    const double v = x[i] + (bias.empty() ? 0.0 : bias[column]);
    out.y[i] = gelu(v, tanh);
    out.dx[i] = dy[i] * gelu_derivative(v, tanh);
    out.dbias[column] += out.dx[i];
  }
  return out;
}

// token[ids[row]] + position[positions[row]] + type[types[row]]; type may be empty, and types too: row 0 for all.
inline Numbers embedding(const std::vector<std::int32_t>& ids, const std::vector<std::int32_t>& positions,
                         const std::vector<std::int32_t>& types, const Numbers& token, const Numbers& position,
                         const Numbers& type, int64_t width) {
  Numbers y(ids.size() * static_cast<size_t>(width));
  for (size_t i = 0; i < y.size(); ++i) {
    const size_t row = i / static_cast<size_t>(width), c = i % static_cast<size_t>(width);
    y[i] = token[at(ids[row], width, static_cast<int64_t>(c))] +
           position[at(positions[row], width, static_cast<int64_t>(c))] +
           (type.empty() ? 0.0 : type[at(types.empty() ? 0 : types[row], width, static_cast<int64_t>(c))]);
  }
  return y;
}

inline Numbers embedding_backward(const std::vector<std::int32_t>& index, const Numbers& dy, Numbers table,
                                  int64_t width) {
  for (size_t i = 0; i < dy.size(); ++i) {
    table[at(index[i / static_cast<size_t>(width)], width, static_cast<int64_t>(i) % width)] += dy[i];
  }
  return table;
}

struct CrossEntropy {
  double loss = 0.0;
  Numbers dlogits;
};

// class_weight and row_weight may be empty.
inline CrossEntropy cross_entropy(const Numbers& logits, const std::vector<int64_t>& labels,
                                  const Numbers& class_weight, const Numbers& row_weight, int64_t classes,
                                  double dloss) {
  CrossEntropy out{0.0, Numbers(logits.size())};
  for (size_t r = 0; r < labels.size(); ++r) {
    double total = 0.0;
    const size_t begin = r * static_cast<size_t>(classes), label = static_cast<size_t>(labels[r]);
    for (size_t c = 0; c < static_cast<size_t>(classes); ++c) total += std::exp(logits[begin + c]);
    const double weight =
        (class_weight.empty() ? 1.0 : class_weight[label]) * (row_weight.empty() ? 1.0 : row_weight[r]);
    out.loss += weight * (std::log(total) - logits[begin + label]);
    for (size_t c = 0; c < static_cast<size_t>(classes); ++c) {
      out.dlogits[begin + c] = dloss * weight * (std::exp(logits[begin + c]) / total - (c == label ? 1.0 : 0.0));
    }
  }
  return out;
}

struct Attention {
  Numbers out, dq, dk, dv;
};

// The keys that a query sees: those in its window (-1: all), with `causal` none after its position.
struct Mask {
  bool causal;
  int64_t window_left, window_right;
  bool sees(int64_t position, int64_t key) const {
    if (causal && key > position) return false;
    if (window_left >= 0 && key < position - window_left) return false;
    return window_right < 0 || key <= position + window_right;
  }
};

// Philox4x32-10 (Salmon et al. 2011): word `element` % 4 of block `element` / 4.
inline std::uint32_t philox(std::uint32_t element, std::uint32_t c1, std::uint32_t c2, std::uint32_t c3,
                            std::uint32_t k0, std::uint32_t k1) {
  std::uint32_t c[4] = {element / 4, c1, c2, c3};
  for (int round = 0; round < 10; ++round, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
    const std::uint64_t low = 0xD2511F53ull * c[0], high = 0xCD9E8D57ull * c[2];
    const std::uint32_t next[4] = {static_cast<std::uint32_t>(high >> 32) ^ c[1] ^ k0, static_cast<std::uint32_t>(high),
                                   static_cast<std::uint32_t>(low >> 32) ^ c[3] ^ k1, static_cast<std::uint32_t>(low)};
    for (int i = 0; i < 4; ++i) c[i] = next[i];
  }
  return c[element % 4];
}

// One text and one head: q [queries, depth], k and v [keys, depth], positions [queries]; factor(query, key) multiplies
// the probabilities.
template <typename Factor>
Attention attention(const Numbers& q, const Numbers& k, const Numbers& v, const Numbers& dout, int64_t depth,
                    const std::vector<std::int32_t>& positions, const Mask& mask, double scale, const Factor& factor) {
  const int64_t queries = static_cast<int64_t>(positions.size()), keys = static_cast<int64_t>(k.size()) / depth;
  Attention result{Numbers(q.size()), Numbers(q.size()), Numbers(k.size()), Numbers(k.size())};
  for (int64_t i = 0; i < queries; ++i) {
    Numbers p(static_cast<size_t>(keys)), dp(static_cast<size_t>(keys));
    double total = 0.0, delta = 0.0;
    for (int64_t j = 0; j < keys; ++j) {
      if (!mask.sees(positions[static_cast<size_t>(i)], j)) continue;
      double score = 0.0;
      for (int64_t d = 0; d < depth; ++d) score += scale * q[at(i, depth, d)] * k[at(j, depth, d)];
      total += p[static_cast<size_t>(j)] = std::exp(score);
    }
    for (int64_t j = 0; j < keys; ++j) {
      const size_t key = static_cast<size_t>(j);
      const double kept = factor(i, j);
      p[key] /= total;
      for (int64_t d = 0; d < depth; ++d) {
        result.out[at(i, depth, d)] += kept * p[key] * v[at(j, depth, d)];
        result.dv[at(j, depth, d)] += kept * p[key] * dout[at(i, depth, d)];
        dp[key] += kept * dout[at(i, depth, d)] * v[at(j, depth, d)];
      }
      delta += p[key] * dp[key];
    }
    for (int64_t j = 0; j < keys; ++j) {
      const double ds = p[static_cast<size_t>(j)] * (dp[static_cast<size_t>(j)] - delta) * scale;
      for (int64_t d = 0; d < depth; ++d) {
        result.dq[at(i, depth, d)] += ds * k[at(j, depth, d)];
        result.dk[at(j, depth, d)] += ds * q[at(i, depth, d)];
      }
    }
  }
  return result;
}

}  // namespace formulas
