// Sum of token, position and type embeddings; backward adds dy to the rows of a table without atomics.
#include "common.cuh"

namespace pyllmclf::cuda {
namespace {

constexpr int kThreads = 128;

template <typename T, int kCount>
__global__ void __launch_bounds__(kThreads)
    embedding_forward_kernel(const std::int32_t* __restrict__ input_ids, const std::int32_t* __restrict__ positions,
                             const std::int32_t* __restrict__ types, const T* __restrict__ token,
                             const T* __restrict__ position, const T* __restrict__ type, T* __restrict__ y,
                             std::int64_t width, std::int64_t tokens, std::int64_t n_positions, std::int64_t n_types) {
  const std::int64_t id = input_ids[blockIdx.x], at = positions[blockIdx.x], kind = types ? types[blockIdx.x] : 0;
  if (id < 0 || id >= tokens || at < 0 || at >= n_positions) __trap();
  if (type && (kind < 0 || kind >= n_types)) __trap();
  for (std::int64_t c = threadIdx.x * kCount; c < width; c += kThreads * kCount) {
    float sum[kCount], other[kCount];
    load(token + id * width + c, sum);
    load(position + at * width + c, other);
#pragma unroll
    for (int i = 0; i < kCount; ++i) sum[i] += other[i];
    if (type) {
      load(type + kind * width + c, other);
#pragma unroll
      for (int i = 0; i < kCount; ++i) sum[i] += other[i];
    }
    store(y + blockIdx.x * width + c, sum);
  }
}

// One block per entry of `order`, which sorts the rows by index: the first block of an index adds all its rows.
template <typename T, int kCount>
__global__ void __launch_bounds__(kThreads)
    embedding_backward_kernel(const T* __restrict__ dy, const std::int32_t* __restrict__ index,
                              const std::int64_t* __restrict__ order, T* __restrict__ dtable, std::int64_t rows,
                              std::int64_t width) {
  const std::int64_t begin = blockIdx.x;
  const std::int32_t target = index[order[begin]];
  if (begin > 0 && index[order[begin - 1]] == target) return;
  std::int64_t end = begin + 1;
  while (end < rows && index[order[end]] == target) ++end;
  for (std::int64_t c = threadIdx.x * kCount; c < width; c += kThreads * kCount) {
    float sum[kCount], row[kCount];
    load(dtable + target * width + c, sum);
    for (std::int64_t i = begin; i < end; ++i) {
      load(dy + order[i] * width + c, row);
#pragma unroll
      for (int j = 0; j < kCount; ++j) sum[j] += row[j];
    }
    store(dtable + target * width + c, sum);
  }
}

}  // namespace

void embedding_forward(const EmbeddingForward& a, const Place& place) {
  by_dtype(place.dtype, [&](auto element) {
    using T = decltype(element);
    const auto kernel = wide_accesses<T>(a.width, a.token, a.position, a.type, a.y)
                            ? embedding_forward_kernel<T, kVector<T>>
                            : embedding_forward_kernel<T, 1>;
    launch("embedding_forward", a.rows, a.width, place, {a.rows, 1}, kThreads, kernel, a.input_ids, a.positions,
           a.types, static_cast<const T*>(a.token), static_cast<const T*>(a.position), static_cast<const T*>(a.type),
           static_cast<T*>(a.y), a.width, a.tokens, a.n_positions, a.n_types);
  });
}

void embedding_backward(const EmbeddingBackward& a, const Place& place) {
  by_dtype(place.dtype, [&](auto element) {
    using T = decltype(element);
    const auto kernel = wide_accesses<T>(a.width, a.dy, a.dtable) ? embedding_backward_kernel<T, kVector<T>>
                                                                  : embedding_backward_kernel<T, 1>;
    launch("embedding_backward", a.rows, a.width, place, {a.rows, 1}, kThreads, kernel, static_cast<const T*>(a.dy),
           a.index, a.order, static_cast<T*>(a.dtable), a.rows, a.width);
  });
}

}  // namespace pyllmclf::cuda
