// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) for dropout masks.
#pragma once

#include "pyllmclf/cpu.h"
#include "simd.h"

namespace pyllmclf {
namespace PYLLMCLF_SIMD {

// Blocks of four words that one call computes in vector lanes.
constexpr int kPhiloxBlocks = 16;
constexpr int kPhiloxWords = 4 * kPhiloxBlocks;

// Computes the words of the channels [channel, channel + kPhiloxWords) of one row; `channel` is a multiple of 4.
// The counter is (channel / 4, position, example, stream), the key (seed, step).
inline void philox(const Dropout& dropout, uint32_t stream, uint32_t example, uint32_t position, int64_t channel,
                   uint32_t* words) {
  uint32_t c0[kPhiloxBlocks], c1[kPhiloxBlocks], c2[kPhiloxBlocks], c3[kPhiloxBlocks];
  for (int i = 0; i < kPhiloxBlocks; ++i) {
    c0[i] = static_cast<uint32_t>(channel / 4 + i);
    c1[i] = position;
    c2[i] = example;
    c3[i] = stream;
  }
  uint32_t k0 = dropout.seed, k1 = dropout.step;
  for (int round = 0; round < 10; ++round) {
    for (int i = 0; i < kPhiloxBlocks; ++i) {
      const uint64_t low = static_cast<uint64_t>(c0[i]) * 0xD2511F53u;
      const uint64_t high = static_cast<uint64_t>(c2[i]) * 0xCD9E8D57u;
      c0[i] = static_cast<uint32_t>(high >> 32) ^ c1[i] ^ k0;
      c1[i] = static_cast<uint32_t>(high);
      c2[i] = static_cast<uint32_t>(low >> 32) ^ c3[i] ^ k1;
      c3[i] = static_cast<uint32_t>(low);
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  for (int i = 0; i < kPhiloxBlocks; ++i) {
    words[4 * i] = c0[i];
    words[4 * i + 1] = c1[i];
    words[4 * i + 2] = c2[i];
    words[4 * i + 3] = c3[i];
  }
}

}  // namespace PYLLMCLF_SIMD
}  // namespace pyllmclf
