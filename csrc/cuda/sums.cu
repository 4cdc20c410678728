// The second step of sums over rows: adds the fp32 sums that a kernel wrote, one row per block of rows, in order.
#include "common.cuh"

namespace pyllmclf::cuda {
namespace {

constexpr int kColumns = 32, kParts = 8;  // a block's threads: columns x parts of the rows

template <typename T>
__global__ void __launch_bounds__(kColumns* kParts)
    sum_columns_kernel(const float* __restrict__ scratch, std::int64_t blocks, std::int64_t width, std::int64_t columns,
                       T* __restrict__ first, T* __restrict__ second) {
  __shared__ float parts[kParts][kColumns];
  const int column = static_cast<int>(threadIdx.x) % kColumns, part = static_cast<int>(threadIdx.x) / kColumns;
  const std::int64_t c = static_cast<std::int64_t>(blockIdx.x) * kColumns + column;
  float total = 0.0f;
  if (c < columns) {
    for (std::int64_t block = part; block < blocks; block += kParts) total += scratch[block * columns + c];
  }
  parts[part][column] = total;
  __syncthreads();
  if (part != 0 || c >= columns) return;
  for (int i = 1; i < kParts; ++i) total += parts[i][column];
  (c < width ? first[c] : second[c - width]) = from_float<T>(total);
}

}  // namespace

std::int64_t sum_blocks(std::int64_t rows) {
  const std::int64_t step = rows_of_block(rows);
  return (rows + step - 1) / step;
}

template <typename T>
void sum_columns(const float* scratch, std::int64_t blocks, std::int64_t width, void* first, void* second,
                 const Place& place) {
  const std::int64_t columns = second ? 2 * width : width;
  launch("sum_columns", blocks, columns, place, {round_up(columns, kColumns) / kColumns, 1}, kColumns * kParts,
         sum_columns_kernel<T>, scratch, blocks, width, columns, static_cast<T*>(first), static_cast<T*>(second));
}

template void sum_columns<float>(const float*, std::int64_t, std::int64_t, void*, void*, const Place&);
template void sum_columns<__nv_bfloat16>(const float*, std::int64_t, std::int64_t, void*, void*, const Place&);
template void sum_columns<__half>(const float*, std::int64_t, std::int64_t, void*, void*, const Place&);

}  // namespace pyllmclf::cuda
