// Runs a kernel's blocks one after the other, in place of csrc/cuda/launch.cuh.
#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "pyllmclf/cuda.h"

namespace pyllmclf::cuda {

struct Grid {
  std::int64_t x, y;
};

template <typename... Parameters, typename... Arguments>
void launch(const char* name, std::int64_t, std::int64_t, const Place&, Grid grid, int threads,
            void (*kernel)(Parameters...), Arguments&&... arguments) {
  if (threads % 32 != 0 || threads < 32 || threads > 1024) throw std::runtime_error(std::string(name) + ": threads");
  emulator::Block block(threads);
  std::vector<std::thread> workers;
  for (int i = 0; i < threads; ++i) {
    workers.emplace_back([&, i] {
      emulator::block = &block;
      threadIdx = {static_cast<unsigned>(i), 0};
      blockDim = {static_cast<unsigned>(threads), 1};
      gridDim = {static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y)};
      for (unsigned y = 0; y < gridDim.y; ++y) {
        for (unsigned x = 0; x < gridDim.x; ++x) {
          blockIdx = {x, y};
          kernel(arguments...);
          block.barrier.wait();
        }
      }
    });
  }
  for (std::thread& worker : workers) worker.join();
}

}  // namespace pyllmclf::cuda
