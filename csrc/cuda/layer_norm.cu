// Layer normalisation fused with the residual addition (Ba et al. 2016); csrc/cpu/layer_norm.cpp has the formulas.
//
// A block of threads takes one row at a time; a thread's share of the row stays in its registers.
#include "common.cuh"

namespace pyllmclf::cuda {
namespace {

// Reads rows of x (and of the residual) once, writes s and y once. kPacks: accesses of a thread per row.
template <typename T, int kCount, int kPacks>
__global__ void __launch_bounds__(kMaxThreads)
    layer_norm_forward_kernel(const T* __restrict__ x, const T* __restrict__ residual, const T* __restrict__ weight,
                              const T* __restrict__ bias, T* __restrict__ y, T* __restrict__ sum,
                              float* __restrict__ mean_out, float* __restrict__ rstd_out, int width, float eps) {
  const std::int64_t begin = static_cast<std::int64_t>(blockIdx.x) * width;
  const int first = static_cast<int>(threadIdx.x) * kCount, step = static_cast<int>(blockDim.x) * kCount;
  float s[kPacks][kCount], total[1] = {0.0f};
#pragma unroll
  for (int j = 0; j < kPacks; ++j) {
    const int c = first + j * step;
    if (c >= width) break;
    load(x + begin + c, s[j]);
    if (residual) {
      float r[kCount];
      load(residual + begin + c, r);
#pragma unroll
      for (int i = 0; i < kCount; ++i) s[j][i] = to_float(from_float<T>(s[j][i] + r[i]));  // the stored value
      store(sum + begin + c, s[j]);
    }
#pragma unroll
    for (int i = 0; i < kCount; ++i) total[0] += s[j][i];
  }
  block_sum(total);
  const float mean = total[0] / static_cast<float>(width);
  total[0] = 0.0f;
#pragma unroll
  for (int j = 0; j < kPacks; ++j) {
    if (first + j * step >= width) break;
#pragma unroll
    for (int i = 0; i < kCount; ++i) total[0] += (s[j][i] - mean) * (s[j][i] - mean);
  }
  block_sum(total);
  const float rstd = 1.0f / sqrtf(total[0] / static_cast<float>(width) + eps);
#pragma unroll
  for (int j = 0; j < kPacks; ++j) {
    const int c = first + j * step;
    if (c >= width) break;
    float w[kCount], b[kCount];
    load(weight + c, w);
    load(bias + c, b);
#pragma unroll
    for (int i = 0; i < kCount; ++i) s[j][i] = (s[j][i] - mean) * rstd * w[i] + b[i];
    store(y + begin + c, s[j]);
  }
  if (threadIdx.x == 0) {
    mean_out[blockIdx.x] = mean;
    rstd_out[blockIdx.x] = rstd;
  }
}

// Computes ds of block_rows rows; with kParams also writes the sums of their parameter gradients, [2 width], to this
// block's row of scratch. ds reads the rows a second time, from the caches, which saves registers.
template <typename T, int kCount, int kPacks, bool kParams>
__global__ void __launch_bounds__(kMaxThreads)
    layer_norm_backward_kernel(const T* __restrict__ dy, const T* __restrict__ dsum, const T* __restrict__ s,
                               const T* __restrict__ weight, const float* __restrict__ mean_of,
                               const float* __restrict__ rstd_of, T* __restrict__ ds, float* __restrict__ scratch,
                               std::int64_t rows, std::int64_t block_rows, int width) {
  const int first = static_cast<int>(threadIdx.x) * kCount, step = static_cast<int>(blockDim.x) * kCount;
  const std::int64_t first_row = static_cast<std::int64_t>(blockIdx.x) * block_rows;
  const std::int64_t last_row = first_row + block_rows < rows ? first_row + block_rows : rows;
  float dweight[kPacks][kCount] = {}, dbias[kPacks][kCount] = {};
  for (std::int64_t row = first_row; row < last_row; ++row) {
    const std::int64_t begin = row * width;
    const float mean = mean_of[row], rstd = rstd_of[row];
    float sums[2] = {0.0f, 0.0f};  // of g and of g n
#pragma unroll
    for (int j = 0; j < kPacks; ++j) {
      const int c = first + j * step;
      if (c >= width) break;
      float d[kCount], n[kCount], w[kCount];
      load(dy + begin + c, d);
      load(s + begin + c, n);
      load(weight + c, w);
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        n[i] = (n[i] - mean) * rstd;
        if (kParams) {
          dweight[j][i] += d[i] * n[i];
          dbias[j][i] += d[i];
        }
        sums[0] += d[i] * w[i];
        sums[1] += d[i] * w[i] * n[i];
      }
    }
    if (!ds) continue;
    block_sum(sums);
    const float mean_g = sums[0] / static_cast<float>(width), mean_gn = sums[1] / static_cast<float>(width);
#pragma unroll
    for (int j = 0; j < kPacks; ++j) {
      const int c = first + j * step;
      if (c >= width) break;
      float d[kCount], n[kCount], w[kCount];
      load(dy + begin + c, d);
      load(s + begin + c, n);
      load(weight + c, w);
#pragma unroll
      for (int i = 0; i < kCount; ++i) d[i] = rstd * (d[i] * w[i] - mean_g - (n[i] - mean) * rstd * mean_gn);
      if (dsum) {
        load(dsum + begin + c, n);
#pragma unroll
        for (int i = 0; i < kCount; ++i) d[i] += n[i];
      }
      store(ds + begin + c, d);
    }
  }
  if (!kParams) return;
  float* sums_out = scratch + static_cast<std::int64_t>(blockIdx.x) * 2 * width;
#pragma unroll
  for (int j = 0; j < kPacks; ++j) {
    const int c = first + j * step;
    if (c >= width) break;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      sums_out[c + i] = dweight[j][i];
      sums_out[width + c + i] = dbias[j][i];
    }
  }
}

template <int kValue>
struct Constant {
  static constexpr int value = kValue;
};

// Calls body(elements per access, accesses per thread, threads) for rows of this width; the first two are Constants.
template <int kCount, typename Body>
void by_packs(std::int64_t width, const Body& body) {
  constexpr std::int64_t kUsual = 256;  // up to so many threads take one pack each, then two
  const std::int64_t packs = (width + kCount - 1) / kCount;
  const auto threads = [&](int each) { return static_cast<int>(round_up((packs + each - 1) / each, kWarp)); };
  if (packs <= kUsual) return body(Constant<kCount>{}, Constant<1>{}, threads(1));
  if (packs <= 2 * kUsual) return body(Constant<kCount>{}, Constant<2>{}, threads(2));
  if (packs <= 4 * kMaxThreads) return body(Constant<kCount>{}, Constant<4>{}, threads(4));
  throw std::invalid_argument("layer_norm: rows of " + std::to_string(width) + " elements are too wide");
}

template <typename T, typename Body>
void by_width(std::int64_t width, bool wide, const Body& body) {
  wide ? by_packs<kVector<T>>(width, body) : by_packs<1>(width, body);
}

}  // namespace

void layer_norm_forward(const LayerNormForward& a, const Place& place) {
  by_dtype(place.dtype, [&](auto element) {
    using T = decltype(element);
    const bool wide = wide_accesses<T>(a.width, a.x, a.residual, a.weight, a.bias, a.y, a.sum);
    by_width<T>(a.width, wide, [&](auto count, auto packs, int threads) {
      launch("layer_norm_forward", a.rows, a.width, place, {a.rows, 1}, threads,
             layer_norm_forward_kernel<T, count.value, packs.value>, static_cast<const T*>(a.x),
             static_cast<const T*>(a.residual), static_cast<const T*>(a.weight), static_cast<const T*>(a.bias),
             static_cast<T*>(a.y), static_cast<T*>(a.sum), a.mean, a.rstd, static_cast<int>(a.width), a.eps);
    });
  });
}

void layer_norm_backward(const LayerNormBackward& a, const Place& place) {
  by_dtype(place.dtype, [&](auto element) {
    using T = decltype(element);
    const bool wide = wide_accesses<T>(a.width, a.dy, a.dsum, a.s, a.weight, a.ds);
    const std::int64_t block_rows = a.dweight ? rows_of_block(a.rows) : 1;
    const std::int64_t blocks = a.dweight ? sum_blocks(a.rows) : a.rows;
    by_width<T>(a.width, wide, [&](auto count, auto packs, int threads) {
      const auto kernel = a.dweight ? layer_norm_backward_kernel<T, count.value, packs.value, true>
                                    : layer_norm_backward_kernel<T, count.value, packs.value, false>;
      launch("layer_norm_backward", a.rows, a.width, place, {blocks, 1}, threads, kernel, static_cast<const T*>(a.dy),
             static_cast<const T*>(a.dsum), static_cast<const T*>(a.s), static_cast<const T*>(a.weight), a.mean, a.rstd,
             static_cast<T*>(a.ds), a.scratch, a.rows, block_rows, static_cast<int>(a.width));
    });
    if (a.dweight) sum_columns<T>(a.scratch, blocks, a.width, a.dweight, a.dbias, place);
  });
}

}  // namespace pyllmclf::cuda
