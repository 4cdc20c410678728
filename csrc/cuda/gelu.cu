// GELU fused with the bias of the layer before it; csrc/cpu/gelu.cpp has the formulas.
#include <type_traits>

#include "common.cuh"

namespace pyllmclf::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kColumns = 32, kRows = kThreads / kColumns;  // threads of a block that sums over rows

constexpr float kTwoSqrt2OverPi = 1.5957691216057308f;
constexpr float kCubic = 0.044715f;
constexpr float kInvSqrt2 = 0.70710678118654752f;
constexpr float kInvSqrt2Pi = 0.39894228040143268f;

template <bool kTanh>
__device__ inline float value(float x) {
  if (kTanh) return x / (1.0f + expf(-kTwoSqrt2OverPi * x * (1.0f + kCubic * x * x)));
  return 0.5f * x * (1.0f + erff(x * kInvSqrt2));
}

template <bool kTanh>
__device__ inline float derivative(float x) {
  if (kTanh) {
    const float s = 1.0f / (1.0f + expf(-kTwoSqrt2OverPi * x * (1.0f + kCubic * x * x)));
    return s + x * s * (1.0f - s) * (kTwoSqrt2OverPi * (1.0f + 3.0f * kCubic * x * x));
  }
  return 0.5f * (1.0f + erff(x * kInvSqrt2)) + x * kInvSqrt2Pi * expf(-0.5f * x * x);
}

// y = GELU(x + bias), or with dy: y = dy GELU'(x + bias). A thread takes kCount neighbouring elements.
template <typename T, int kCount, bool kTanh, bool kBackward>
__global__ void __launch_bounds__(kThreads)
    gelu_kernel(const T* __restrict__ x, const T* __restrict__ bias, const T* __restrict__ dy, T* __restrict__ y,
                std::int64_t packs, std::int64_t row_packs) {
  const std::int64_t pack = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (pack >= packs) return;
  float v[kCount], other[kCount];
  load(x + pack * kCount, v);
  if (bias) {
    load(bias + pack % row_packs * kCount, other);
#pragma unroll
    for (int i = 0; i < kCount; ++i) v[i] += other[i];
  }
  if (kBackward) load(dy + pack * kCount, other);
#pragma unroll
  for (int i = 0; i < kCount; ++i) v[i] = kBackward ? other[i] * derivative<kTanh>(v[i]) : value<kTanh>(v[i]);
  store(y + pack * kCount, v);
}

// The same backward pass with sums for dbias: a block takes some columns of block_rows rows and writes the sums of
// their dx to its row of scratch.
template <typename T, int kCount, bool kTanh>
__global__ void __launch_bounds__(kThreads, 4)
    gelu_bias_backward_kernel(const T* __restrict__ x, const T* __restrict__ bias, const T* __restrict__ dy,
                              T* __restrict__ dx, float* __restrict__ scratch, std::int64_t rows,
                              std::int64_t block_rows, std::int64_t width) {
  __shared__ float of_rows[kRows][kColumns * kCount];
  const int column = static_cast<int>(threadIdx.x) % kColumns * kCount, part = static_cast<int>(threadIdx.x) / kColumns;
  const std::int64_t c = static_cast<std::int64_t>(blockIdx.x) * kColumns * kCount + column;
  const std::int64_t first = blockIdx.y * block_rows, last = first + block_rows < rows ? first + block_rows : rows;
  float b[kCount] = {}, total[kCount] = {};
  if (c < width) {
    if (bias) load(bias + c, b);
    for (std::int64_t row = first + part; row < last; row += kRows) {
      float v[kCount], d[kCount];
      load(x + row * width + c, v);
      load(dy + row * width + c, d);
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        v[i] = d[i] * derivative<kTanh>(v[i] + b[i]);
        total[i] += v[i];
      }
      store(dx + row * width + c, v);
    }
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i) of_rows[part][column + i] = total[i];
  __syncthreads();
  if (part != 0 || c >= width) return;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    for (int j = 1; j < kRows; ++j) total[i] += of_rows[j][column + i];
    scratch[blockIdx.y * width + c + i] = total[i];
  }
}

// Calls body(T{}, elements per access, whether tanh); the last two are compile-time constants.
template <typename Body, typename... Pointers>
void by_variant(DType dtype, bool tanh, std::int64_t width, const Body& body, Pointers... pointers) {
  by_dtype(dtype, [&](auto element) {
    using T = decltype(element);
    using Wide = std::integral_constant<int, kVector<T>>;
    using One = std::integral_constant<int, 1>;
    if (wide_accesses<T>(width, pointers...)) {
      tanh ? body(element, Wide{}, std::true_type{}) : body(element, Wide{}, std::false_type{});
    } else {
      tanh ? body(element, One{}, std::true_type{}) : body(element, One{}, std::false_type{});
    }
  });
}

}  // namespace

void gelu_forward(const GeluForward& a, const Place& place) {
  by_variant(
      place.dtype, a.tanh, a.width,
      [&](auto element, auto count, auto tanh) {
        using T = decltype(element);
        const std::int64_t row_packs = a.width / count.value, packs = a.rows * row_packs;
        launch("gelu_forward", a.rows, a.width, place, {round_up(packs, kThreads) / kThreads, 1}, kThreads,
               gelu_kernel<T, count.value, tanh.value, false>, static_cast<const T*>(a.x),
               static_cast<const T*>(a.bias), nullptr, static_cast<T*>(a.y), packs, row_packs);
      },
      a.x, a.bias, a.y);
}

void gelu_backward(const GeluBackward& a, const Place& place) {
  by_variant(
      place.dtype, a.tanh, a.width,
      [&](auto element, auto count, auto tanh) {
        using T = decltype(element);
        const std::int64_t row_packs = a.width / count.value, packs = a.rows * row_packs;
        const T *x = static_cast<const T*>(a.x), *bias = static_cast<const T*>(a.bias);
        const T* dy = static_cast<const T*>(a.dy);
        T* dx = static_cast<T*>(a.dx);
        if (!a.dbias) {
          launch("gelu_backward", a.rows, a.width, place, {round_up(packs, kThreads) / kThreads, 1}, kThreads,
                 gelu_kernel<T, count.value, tanh.value, true>, x, bias, dy, dx, packs, row_packs);
          return;
        }
        const std::int64_t blocks = sum_blocks(a.rows), block_rows = rows_of_block(a.rows);
        launch("gelu_bias_backward", a.rows, a.width, place, {round_up(row_packs, kColumns) / kColumns, blocks},
               kThreads, gelu_bias_backward_kernel<T, count.value, tanh.value>, x, bias, dy, dx, a.scratch, a.rows,
               block_rows, a.width);
        sum_columns<T>(a.scratch, blocks, a.width, a.dbias, nullptr, place);
      },
      a.dy, a.x, a.bias, a.dx);
}

}  // namespace pyllmclf::cuda
