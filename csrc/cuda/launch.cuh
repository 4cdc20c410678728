// Launches kernels and checks every return code.
#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>
#include <utility>

#include "pyllmclf/cuda.h"

namespace pyllmclf::cuda {

inline void check(cudaError_t status, const std::string& what) {
  if (status != cudaSuccess) throw std::runtime_error(what + ": " + cudaGetErrorString(status));
}

// Makes the tensors' device current, and restores the previous one at the end of the scope.
class DeviceGuard {
 public:
  DeviceGuard(int device, const std::string& what) {
    check(cudaGetDevice(&before_), what);
    if (before_ == device) return;
    check(cudaSetDevice(device), what);
    changed_ = true;
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

// Launches `kernel` on place's stream; name and rows x width only serve error messages.
template <typename... Parameters, typename... Arguments>
void launch(const char* name, std::int64_t rows, std::int64_t width, const Place& place, Grid grid, int threads,
            void (*kernel)(Parameters...), Arguments&&... arguments) {
  if (grid.x == 0 || grid.y == 0) return;
  const std::string what = std::string(name) + " on " + std::to_string(rows) + " x " + std::to_string(width);
  if (grid.x > 2147483647 || grid.y > 65535) throw std::runtime_error(what + ": more blocks than CUDA takes");
  const DeviceGuard guard(place.device, what);
  const dim3 blocks(static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y));
  kernel<<<blocks, static_cast<unsigned>(threads), 0, static_cast<cudaStream_t>(place.stream)>>>(
      std::forward<Arguments>(arguments)...);
  check(cudaGetLastError(), what);
}

}  // namespace pyllmclf::cuda
