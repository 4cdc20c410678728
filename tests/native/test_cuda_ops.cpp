// Compares the CUDA kernels on the emulator with the formulas, in each dtype. Outputs are pre-filled with NaN.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string>

#include "check.h"
#include "formulas.h"
#include "pyllmclf/cuda.h"

namespace {

using check::as_double;
using check::nans;
using std::int32_t;
using std::int64_t;
namespace cuda = pyllmclf::cuda;

template <typename T>
struct Element;
template <>
struct Element<float> {
  static constexpr cuda::DType dtype = cuda::DType::kFloat32;
  static constexpr double tolerance = 1e-5;
  static constexpr const char* name = "fp32 ";
};
// Inputs are exact; results are rounded once, to 8 bits (bf16) and 11 bits (fp16).
template <>
struct Element<__nv_bfloat16> {
  static constexpr cuda::DType dtype = cuda::DType::kBFloat16;
  static constexpr double tolerance = 1.0 / 128;
  static constexpr const char* name = "bf16 ";
};
template <>
struct Element<__half> {
  static constexpr cuda::DType dtype = cuda::DType::kFloat16;
  static constexpr double tolerance = 1.0 / 1024;
  static constexpr const char* name = "fp16 ";
};

template <typename T>
cuda::Place place() {
  return {Element<T>::dtype, 0, nullptr};
}

template <typename T>
void test_layer_norm(int64_t rows, int64_t width, bool fused) {
  const std::string what = Element<T>::name + ("layer_norm " + std::to_string(rows)) + " x " + std::to_string(width);
  check::Random random(1);
  const int64_t size = rows * width;
  const auto x = random.normal<T>(size), residual = random.normal<T>(fused ? size : 0),
             weight = random.normal<T>(width);
  const auto bias = random.normal<T>(width), dy = random.normal<T>(size), dsum = random.normal<T>(fused ? size : 0);
  auto y = nans<T>(size), sum = nans<T>(fused ? size : 0), ds = nans<T>(size), frozen = nans<T>(size);
  auto dweight = nans<T>(width), dbias = nans<T>(width);
  auto mean = nans<float>(rows), rstd = nans<float>(rows), scratch = nans<float>(cuda::sum_blocks(rows) * 2 * width);
  cuda::layer_norm_forward({x.data(), fused ? residual.data() : nullptr, weight.data(), bias.data(), y.data(),
                            fused ? sum.data() : nullptr, mean.data(), rstd.data(), rows, width, 1e-5f},
                           place<T>());
  const auto& s = fused ? sum : x;
  cuda::LayerNormBackward args = {dy.data(),    fused ? dsum.data() : nullptr,
                                  s.data(),     weight.data(),
                                  mean.data(),  rstd.data(),
                                  ds.data(),    dweight.data(),
                                  dbias.data(), scratch.data(),
                                  rows,         width};
  cuda::layer_norm_backward(args, place<T>());
  args.ds = frozen.data();
  args.dweight = args.dbias = nullptr;
  args.scratch = nullptr;
  cuda::layer_norm_backward(args, place<T>());
  // The formula starts from the rounded sum, as torch's two separate operations do.
  const auto expected =
      formulas::layer_norm(as_double(s), {}, as_double(weight), as_double(bias), 1e-5, as_double(dy), as_double(dsum));
  const double tolerance = Element<T>::tolerance;
  check::close(y, expected.y, tolerance, what + ": y");
  if (fused) {
    const auto exact = formulas::layer_norm(as_double(x), as_double(residual), as_double(weight), as_double(bias), 1e-5,
                                            as_double(dy), {});
    check::close(sum, exact.s, tolerance, what + ": sum");
  }
  check::close(ds, expected.ds, tolerance, what + ": ds");
  check::close(frozen, expected.ds, tolerance, what + ": ds of frozen parameters");
  check::close(dweight, expected.dweight, tolerance, what + ": dweight");
  check::close(dbias, expected.dbias, tolerance, what + ": dbias");
}

template <typename T>
void test_gelu(int64_t rows, int64_t width, bool tanh, bool with_bias) {
  const std::string what =
      Element<T>::name + ("gelu " + std::to_string(rows)) + " x " + std::to_string(width) + (tanh ? " tanh" : " exact");
  check::Random random(2);
  const int64_t size = rows * width;
  auto x = random.normal<T>(size);
  for (T& value : x) value = static_cast<T>(3.0f * static_cast<float>(value));
  const auto bias = random.normal<T>(with_bias ? width : 0), dy = random.normal<T>(size);
  auto y = nans<T>(size), dx = nans<T>(size), dbias = nans<T>(width);
  auto scratch = nans<float>(cuda::sum_blocks(rows) * width);
  const T* b = with_bias ? bias.data() : nullptr;
  cuda::gelu_forward({x.data(), b, y.data(), rows, width, tanh}, place<T>());
  cuda::gelu_backward({dy.data(), x.data(), b, dx.data(), with_bias ? dbias.data() : nullptr,
                       with_bias ? scratch.data() : nullptr, rows, width, tanh},
                      place<T>());
  const auto expected = formulas::gelu(as_double(x), as_double(bias), width, tanh, as_double(dy));
  check::close(y, expected.y, Element<T>::tolerance, what + ": y");
  check::close(dx, expected.dx, Element<T>::tolerance, what + ": dx");
  if (with_bias) check::close(dbias, expected.dbias, Element<T>::tolerance, what + ": dbias");
}

template <typename T>
void test_embedding(int64_t rows, int64_t width, bool with_type, bool typed) {
  const std::string what = Element<T>::name + ("embedding " + std::to_string(rows)) + " x " + std::to_string(width);
  check::Random random(3);
  const auto ids = random.below(7, rows), positions = random.below(5, rows);
  const auto token = random.normal<T>(7 * width), position = random.normal<T>(5 * width);
  const auto types = random.below(2, typed ? rows : 0);
  const auto type = random.normal<T>(with_type ? 2 * width : 0), dy = random.normal<T>(rows * width);
  auto y = nans<T>(rows * width), dtable = token;
  cuda::embedding_forward({ids.data(), positions.data(), typed ? types.data() : nullptr, token.data(), position.data(),
                           with_type ? type.data() : nullptr, y.data(), rows, width, 7, 5, 2},
                          place<T>());
  std::vector<int64_t> order(ids.size());
  std::iota(order.begin(), order.end(), int64_t{0});
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return ids[static_cast<std::size_t>(a)] < ids[static_cast<std::size_t>(b)];
  });
  cuda::embedding_backward({dy.data(), ids.data(), order.data(), dtable.data(), rows, width}, place<T>());
  check::close(
      y, formulas::embedding(ids, positions, types, as_double(token), as_double(position), as_double(type), width),
      Element<T>::tolerance, what + ": y");
  check::close(dtable, formulas::embedding_backward(ids, as_double(dy), as_double(token), width), Element<T>::tolerance,
               what + ": dtable");
}

template <typename T>
void test_cross_entropy(int64_t rows, int64_t classes, bool weighted, bool rows_weighted) {
  const std::string what =
      Element<T>::name + ("cross_entropy " + std::to_string(rows)) + " x " + std::to_string(classes);
  check::Random random(4);
  const auto logits = random.normal<T>(rows * classes);
  std::vector<int64_t> labels;
  for (const int32_t label : random.below(static_cast<int32_t>(classes), rows)) labels.push_back(label);
  auto weight = random.normal(weighted ? classes : 0), row_weight = random.normal(rows_weighted ? rows : 0);
  for (float& value : weight) value = std::fabs(value) + 0.1f;
  for (float& value : row_weight) value = std::fabs(value);
  const float* w = weighted ? weight.data() : nullptr;
  const float* row_w = rows_weighted ? row_weight.data() : nullptr;
  auto loss = nans<float>(1), log_sum_exp = nans<float>(rows);
  auto dlogits = nans<T>(rows * classes);
  const float dloss = 0.25f;
  cuda::cross_entropy_forward({logits.data(), labels.data(), w, row_w, loss.data(), log_sum_exp.data(), rows, classes},
                              place<T>());
  cuda::cross_entropy_backward(
      {logits.data(), labels.data(), w, row_w, &dloss, log_sum_exp.data(), dlogits.data(), rows, classes}, place<T>());
  const auto expected =
      formulas::cross_entropy(as_double(logits), labels, as_double(weight), as_double(row_weight), classes, dloss);
  check::close(loss, {expected.loss}, 1e-5, what + ": loss");  // fp32 for every dtype of logits
  check::close(dlogits, expected.dlogits, Element<T>::tolerance, what + ": dlogits");
}

template <typename T>
void test_all() {
  for (const bool fused : {false, true}) {
    test_layer_norm<T>(0, 8, fused);
    test_layer_norm<T>(1, 8, fused);
    test_layer_norm<T>(11, 384, fused);
    test_layer_norm<T>(5, 13, fused);  // one element at a time
  }
  constexpr int64_t kWide = 16 / sizeof(T);
  test_layer_norm<T>(2, 1601, true);         // four accesses of one element
  test_layer_norm<T>(2, 258 * kWide, true);  // two accesses of 16 bytes
  test_layer_norm<T>(1, 514 * kWide, true);  // four
  for (const bool tanh : {false, true}) {
    for (const bool bias : {false, true}) {
      test_gelu<T>(0, 8, tanh, bias);
      test_gelu<T>(1, 1, tanh, bias);
      test_gelu<T>(19, 264, tanh, bias);
      test_gelu<T>(9, 33, tanh, bias);
    }
  }
  for (const bool type : {false, true}) {
    for (const bool typed : {false, true}) {
      test_embedding<T>(0, 8, type, typed);
      test_embedding<T>(23, 40, type, typed);
      test_embedding<T>(5, 7, type, typed);
    }
  }
  for (const bool weighted : {false, true}) {
    for (const bool rows_weighted : {false, true}) {
      test_cross_entropy<T>(1, 2, weighted, rows_weighted);
      test_cross_entropy<T>(11, 77, weighted, rows_weighted);
    }
  }
}

}  // namespace

int main() {
  test_all<float>();
  test_all<__nv_bfloat16>();
  test_all<__half>();
  bool refused = false;
  try {
    test_layer_norm<float>(1, 8196, false);
  } catch (const std::invalid_argument&) {
    refused = true;
  }
  check::that(refused, "a row that is too wide is refused");
  return check::finish("CUDA ops, emulated");
}
