// Launching a kernel, with its return code checked.
#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>
#include <utility>

#include "pyllmclf/cuda.h"

namespace pyllmclf::cuda {

// Makes the tensors' device the current one, and the one before again at the end.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    if (cudaGetDevice(&before_) == cudaSuccess && before_ != device) changed_ = cudaSetDevice(device) == cudaSuccess;
  }
  ~DeviceGuard() {
    if (changed_) (void)cudaSetDevice(before_);
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int before_ = 0;
  bool changed_ = false;
};

struct Grid {
  std::int64_t x, y;
};

// name and rows x width are for the message alone.
template <typename... Parameters, typename... Arguments>
void launch(const char* name, std::int64_t rows, std::int64_t width, const Place& place, Grid grid, int threads,
            void (*kernel)(Parameters...), Arguments&&... arguments) {
  if (grid.x == 0 || grid.y == 0) return;
  const std::string what = std::string(name) + " on " + std::to_string(rows) + " x " + std::to_string(width);
  if (grid.x > 2147483647 || grid.y > 65535) throw std::runtime_error(what + ": more blocks than CUDA takes");
  const DeviceGuard guard(place.device);
  const dim3 blocks(static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y));
  kernel<<<blocks, static_cast<unsigned>(threads), 0, static_cast<cudaStream_t>(place.stream)>>>(
      std::forward<Arguments>(arguments)...);
  if (const cudaError_t status = cudaGetLastError(); status != cudaSuccess) {
    throw std::runtime_error(what + ": " + cudaGetErrorString(status));
  }
}

}  // namespace pyllmclf::cuda
