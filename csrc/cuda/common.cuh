// Shared by the kernels: 16-byte accesses, sums over a block, sums over rows without atomics.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <stdexcept>

#include "launch.cuh"
#include "pyllmclf/cuda.h"

namespace pyllmclf::cuda {

constexpr int kWarp = 32;
constexpr int kMaxThreads = 512;  // leaves 128 registers per thread

template <typename T>
constexpr int kVector = 16 / static_cast<int>(sizeof(T));  // elements of a 16-byte access

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ inline float to_float(__half x) { return __half2float(x); }

template <typename T>
__device__ T from_float(float x);
template <>
__device__ inline float from_float<float>(float x) {
  return x;
}
template <>
__device__ inline __nv_bfloat16 from_float<__nv_bfloat16>(float x) {
  return __float2bfloat16(x);
}
template <>
__device__ inline __half from_float<__half>(float x) {
  return __float2half(x);
}

// kCount neighbouring elements; kCount = kVector<T> makes one access of 16 bytes.
template <typename T, int kCount>
struct alignas(sizeof(T) * kCount) Pack {
  T values[kCount];
};

template <typename T, int kCount>
__device__ inline void load(const T* from, float (&to)[kCount]) {
  const Pack<T, kCount> pack = *reinterpret_cast<const Pack<T, kCount>*>(from);
#pragma unroll
  for (int i = 0; i < kCount; ++i) to[i] = to_float(pack.values[i]);
}

template <typename T, int kCount>
__device__ inline void store(T* to, const float (&from)[kCount]) {
  Pack<T, kCount> pack;
#pragma unroll
  for (int i = 0; i < kCount; ++i) pack.values[i] = from_float<T>(from[i]);
  *reinterpret_cast<Pack<T, kCount>*>(to) = pack;
}

__device__ inline float warp_sum(float x) {
#pragma unroll
  for (int lane = kWarp / 2; lane > 0; lane /= 2) x += __shfl_xor_sync(0xffffffffu, x, lane);
  return x;
}

__device__ inline float warp_max(float x) {
#pragma unroll
  for (int lane = kWarp / 2; lane > 0; lane /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, lane));
  return x;
}

// Sums kCount numbers over all threads of the block, a multiple of kWarp; every thread receives the sums.
template <int kCount>
__device__ inline void block_sum(float (&x)[kCount]) {
  __shared__ float of_warps[kCount][kMaxThreads / kWarp];
  const int warps = static_cast<int>(blockDim.x) / kWarp, thread = static_cast<int>(threadIdx.x);
  __syncthreads();  // the sums of the previous call have been read
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    x[i] = warp_sum(x[i]);
    if (thread % kWarp == 0) of_warps[i][thread / kWarp] = x[i];
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    float total = 0.0f;
    for (int warp = 0; warp < warps; ++warp) total += of_warps[i][warp];
    x[i] = total;
  }
}

// Rows per block: sums over rows are split into sum_blocks(rows) blocks.
inline std::int64_t rows_of_block(std::int64_t rows) {
  constexpr std::int64_t kMinRows = 8, kMaxBlocks = 264;  // two for each multiprocessor of an H100
  const std::int64_t even = (rows + kMaxBlocks - 1) / kMaxBlocks;
  return even < kMinRows ? kMinRows : even;
}

// first[c] = sum over `blocks` rows of scratch[., c] for c < width; second: the same of the columns
// [width, 2 width), unless it is null.
template <typename T>
void sum_columns(const float* scratch, std::int64_t blocks, std::int64_t width, void* first, void* second,
                 const Place& place);

// Calls body(T{}) with the element type.
template <typename Body>
void by_dtype(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::kFloat32:
      return body(float{});
    case DType::kBFloat16:
      return body(__nv_bfloat16{});
    case DType::kFloat16:
      return body(__half{});
  }
  throw std::runtime_error("unknown dtype");
}

// Whether rows of this width can be read 16 bytes at a time from all these arrays.
template <typename T, typename... Pointers>
bool wide_accesses(std::int64_t width, Pointers... pointers) {
  return width % kVector<T> == 0 && ((reinterpret_cast<std::uintptr_t>(pointers) % 16 == 0) && ...);
}

inline std::int64_t round_up(std::int64_t x, std::int64_t step) { return (x + step - 1) / step * step; }

}  // namespace pyllmclf::cuda
