// The part of CUDA that csrc/cuda's kernels need to run on a CPU, in place of the toolkit's header: a thread of a block
// is a thread of the machine, and blocks run one after the other. Slow, so for small shapes; ThreadSanitizer reports
// missing synchronization.
#pragma once

#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#include <condition_variable>
#include <mutex>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __restrict__
#define __launch_bounds__(...)
// Static, because blocks run one after the other and all threads of a block share the variable.
#define __shared__ static

namespace emulator {

struct Index {
  unsigned x = 0, y = 0;
};

class Barrier {
 public:
  explicit Barrier(int threads) : threads_(threads) {}
  void wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    const unsigned round = round_;
    if (++arrived_ == threads_) {
      arrived_ = 0;
      ++round_;
      all_.notify_all();
    } else {
      all_.wait(lock, [&] { return round != round_; });
    }
  }

 private:
  std::mutex mutex_;
  std::condition_variable all_;
  int threads_, arrived_ = 0;
  unsigned round_ = 0;
};

struct Warp {
  Warp() : barrier(32) {}
  Barrier barrier;
  float values[32];
};

struct Block {
  explicit Block(int threads) : barrier(threads), warps(static_cast<std::size_t>(threads) / 32) {}
  Barrier barrier;
  std::vector<Warp> warps;
};

inline thread_local Block* block = nullptr;

}  // namespace emulator

inline thread_local emulator::Index threadIdx, blockIdx, blockDim, gridDim;

inline void __syncthreads() { emulator::block->barrier.wait(); }

inline float __shfl_xor_sync(unsigned, float value, int mask) {
  emulator::Warp& warp = emulator::block->warps[threadIdx.x / 32];
  const int lane = static_cast<int>(threadIdx.x % 32);
  warp.values[lane] = value;
  warp.barrier.wait();
  const float other = warp.values[lane ^ mask];
  warp.barrier.wait();
  return other;
}

[[noreturn]] inline void __trap() { abort(); }
