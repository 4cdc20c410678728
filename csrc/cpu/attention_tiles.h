// How attention is partitioned: texts, tasks of queries or keys, the keys that a query sees.
#pragma once

#include <stdlib.h>

#include "ops.h"
#include "philox.h"
#include "simd.h"

namespace pyllmclf {
namespace PYLLMCLF_SIMD {

constexpr int64_t kQueryBlock = 24;   // rows of a tile of scores, a multiple of kTileRows
constexpr int64_t kKeyBlock = 64;     // columns of a tile of scores
constexpr int64_t kQueryChunk = 192;  // queries of a forward task, which share the packed keys
constexpr int64_t kKeyChunk = 512;    // keys of a backward task
// A call of fewer multiplications runs on one thread.
constexpr int64_t kGrain = 200000;

struct Task {
  int64_t text, head, chunk;
};

// Query heads that share keys and values.
inline int64_t group_of(const AttentionShape& s) { return s.heads / s.kv_heads; }

struct Text {
  int64_t q_begin, q_count, k_begin, k_count;
};

inline Text text_of(const AttentionShape& s, int64_t i) {
  return {s.cu_seqlens_q[i], s.cu_seqlens_q[i + 1] - s.cu_seqlens_q[i], s.cu_seqlens_k[i],
          s.cu_seqlens_k[i + 1] - s.cu_seqlens_k[i]};
}

inline int64_t position_of(const AttentionShape& s, const Text& text, int64_t query) {
  return s.query_positions ? s.query_positions[text.q_begin + query] : query;
}

// Keys [begin, end) that a query sees.
struct Keys {
  int64_t begin, end;
};

inline Keys keys_of(const AttentionShape& s, const Text& text, int64_t query) {
  const int64_t position = position_of(s, text, query);
  Keys keys = {0, text.k_count};
  if (s.causal) keys.end = at_most(keys.end, position + 1);
  if (s.window_right >= 0) keys.end = at_most(keys.end, position + s.window_right + 1);
  if (s.window_left >= 0) keys.begin = at_least(0, position - s.window_left);
  return keys;
}

// The smallest range that contains all keys of the queries [begin, end); empty if these see none.
inline Keys keys_of(const AttentionShape& s, const Text& text, int64_t begin, int64_t end) {
  Keys all = {text.k_count, 0};
  for (int64_t i = begin; i < end; ++i) {
    const Keys keys = keys_of(s, text, i);
    all = {at_most(all.begin, keys.begin), at_least(all.end, keys.end)};
  }
  return all;
}

// Lists the tasks: one per text, chunk of `chunk` queries or keys, and head. The caller frees the list. Null if its
// allocation fails.
inline Task* list_tasks(const AttentionShape& s, const int32_t* cu_seqlens, int64_t heads, int64_t chunk,
                        int64_t* count) {
  int64_t n = 0;
  for (int64_t t = 0; t < s.texts; ++t) n += heads * ((cu_seqlens[t + 1] - cu_seqlens[t] + chunk - 1) / chunk);
  *count = n;
  Task* tasks = static_cast<Task*>(malloc(static_cast<size_t>(n + 1) * sizeof(Task)));
  if (!tasks) return nullptr;
  n = 0;
  for (int64_t t = 0; t < s.texts; ++t) {
    const int64_t chunks = (cu_seqlens[t + 1] - cu_seqlens[t] + chunk - 1) / chunk;
    for (int64_t c = 0; c < chunks; ++c) {
      for (int64_t h = 0; h < heads; ++h) tasks[n++] = {t, h, c};
    }
  }
  return tasks;
}

inline int thread_count(const AttentionShape& s) {
  int64_t work = 0;
  for (int64_t t = 0; t < s.texts; ++t) {
    const Text text = text_of(s, t);
    work += text.q_count * text.k_count * s.heads * s.head_dim;
  }
  return work < kGrain ? 1 : s.threads;
}

// Mask of those keys among [key, key + kLanes) that lie in `keys`.
PYLLMCLF_INLINE IntVec inside(int64_t key, Keys keys) {
  IntVec index;
  for (int i = 0; i < kLanes; ++i) index[i] = i;
  index += static_cast<int32_t>(key);
  return (index >= static_cast<int32_t>(keys.begin)) & (index < static_cast<int32_t>(keys.end));
}

// Dropout factors, 0 or `scale`, of the probabilities of one query and the keys of one block.
inline void dropout_factors(const AttentionShape& s, const Task& task, int64_t position, int64_t key, float* factors) {
  uint32_t words[kPhiloxWords];
  static_assert(kPhiloxWords == kKeyBlock, "one call of the generator makes the words of one block");
  philox(s.dropout, s.dropout.stream | static_cast<uint32_t>(task.head) << 16,
         static_cast<uint32_t>(s.example_ids[task.text]), static_cast<uint32_t>(position), key, words);
  for (int64_t j = 0; j < kKeyBlock; ++j) factors[j] = words[j] >= s.dropout.threshold ? s.dropout.scale : 0.0f;
}

}  // namespace PYLLMCLF_SIMD
}  // namespace pyllmclf
