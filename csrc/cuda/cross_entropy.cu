// Cross-entropy of logits [rows, classes] with labels and weights of classes and rows, summed over the rows.
#include "common.cuh"

namespace pyllmclf::cuda {
namespace {

constexpr int kThreads = 256;

// One block; a warp takes one row at a time. The loss stays on the device, so the host does not wait for it.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    cross_entropy_forward_kernel(const T* __restrict__ logits, const std::int64_t* __restrict__ labels,
                                 const float* __restrict__ class_weight, const float* __restrict__ row_weight,
                                 float* __restrict__ loss, float* __restrict__ log_sum_exp, std::int64_t rows,
                                 std::int64_t classes) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  float total[1] = {0.0f};
  for (std::int64_t row = threadIdx.x / kWarp; row < rows; row += kThreads / kWarp) {
    const T* x = logits + row * classes;
    float largest = -INFINITY;
    for (std::int64_t c = lane; c < classes; c += kWarp) largest = fmaxf(largest, to_float(x[c]));
    largest = warp_max(largest);
    float sum = 0.0f;
    for (std::int64_t c = lane; c < classes; c += kWarp) sum += expf(to_float(x[c]) - largest);
    const float lse = largest + logf(warp_sum(sum));
    if (lane != 0) continue;
    const std::int64_t label = labels[row];
    if (label < 0 || label >= classes) __trap();
    log_sum_exp[row] = lse;
    const float weight = (class_weight ? class_weight[label] : 1.0f) * (row_weight ? row_weight[row] : 1.0f);
    total[0] += weight * (lse - to_float(x[label]));
  }
  block_sum(total);
  if (threadIdx.x == 0) *loss = total[0];
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    cross_entropy_backward_kernel(const T* __restrict__ logits, const std::int64_t* __restrict__ labels,
                                  const float* __restrict__ class_weight, const float* __restrict__ row_weight,
                                  const float* __restrict__ dloss, const float* __restrict__ log_sum_exp,
                                  T* __restrict__ dlogits, std::int64_t elements, std::int64_t classes) {
  const std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= elements) return;
  const std::int64_t row = at / classes, label = labels[row];
  const float probability = expf(to_float(logits[at]) - log_sum_exp[row]);
  const float factor = *dloss * (class_weight ? class_weight[label] : 1.0f) * (row_weight ? row_weight[row] : 1.0f);
  dlogits[at] = from_float<T>(factor * (probability - (at % classes == label ? 1.0f : 0.0f)));
}

}  // namespace

void cross_entropy_forward(const CrossEntropyForward& a, const Place& place) {
  by_dtype(place.dtype, [&](auto element) {
    using T = decltype(element);
    launch("cross_entropy_forward", a.rows, a.classes, place, {1, 1}, kThreads, cross_entropy_forward_kernel<T>,
           static_cast<const T*>(a.logits), a.labels, a.class_weight, a.row_weight, a.loss, a.log_sum_exp, a.rows,
           a.classes);
  });
}

void cross_entropy_backward(const CrossEntropyBackward& a, const Place& place) {
  by_dtype(place.dtype, [&](auto element) {
    using T = decltype(element);
    const std::int64_t elements = a.rows * a.classes;
    launch("cross_entropy_backward", a.rows, a.classes, place, {round_up(elements, kThreads) / kThreads, 1}, kThreads,
           cross_entropy_backward_kernel<T>, static_cast<const T*>(a.logits), a.labels, a.class_weight, a.row_weight,
           a.dloss, a.log_sum_exp, static_cast<T*>(a.dlogits), elements, a.classes);
  });
}

}  // namespace pyllmclf::cuda
