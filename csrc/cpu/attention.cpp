// Attention over packed texts: softmax(scale q kᵀ + mask) v within each text.
//
// Forward: online softmax over blocks of keys (Milakov and Gimelshein 2018; Dao 2023). Backward: probabilities are
// recomputed from the saved log-sum-exp L:  P = exp(S - L), dV = Pᵀ dO, dP = dO Vᵀ, dS = P (dP - rowsum(dO O)),
// dQ = scale dS K, dK = scale dSᵀ Q.  Dropout masks and scales P before it multiplies V, and dP likewise.
//
// Several query heads may share a head of keys and values (Ainslie et al. 2023); dK and dV then sum over them.
//
// A task is a chunk of queries of one text and one query head (forward), or of keys of one text and one head of keys
// (backward). The shape alone determines the tasks, and each sum has one owner and one order, so any number of threads
// gives the same bits.
#include <math.h>
#include <stdlib.h>

#include "attention_packs.h"

namespace pyllmclf {
namespace PYLLMCLF_SIMD {
namespace {

// Numbers of the inner axis: of one operand of P.
template <typename P>
constexpr int64_t inner(int64_t count) {
  return (count + P::kInner - 1) / P::kInner;
}

template <typename P>
struct ForwardScratch {
  typename P::Number *queries, *keys, *values, *probabilities;
  float *sums, *scores, *largest, *total;

  static int64_t size(int64_t depth) {
    return 2 * kQueryChunk * depth + 2 * kKeyBlock * depth + 2 * kQueryBlock * kKeyBlock + 2 * kQueryChunk;
  }
  ForwardScratch(float* at, int64_t depth) {
    queries = reinterpret_cast<typename P::Number*>(at);
    keys = queries + kQueryChunk * depth;
    values = keys + kKeyBlock * depth;
    probabilities = values + kKeyBlock * depth;
    sums = reinterpret_cast<float*>(probabilities + kQueryBlock * kKeyBlock);
    scores = sums + kQueryChunk * depth;
    largest = scores + kQueryBlock * kKeyBlock;
    total = largest + kQueryChunk;
  }
};

// Turns one row of scores into probabilities relative to the running maximum, and rescales the row's sums to it.
void softmax_row(const AttentionShape& s, const Task& task, const Text& text, int64_t query, int64_t key,
                 int64_t columns, int64_t depth, float* scores, float* sums, float* running_max, float* running_total) {
  const Keys keys = keys_of(s, text, query);
  const bool partial = keys.begin > key || keys.end < key + columns;
  Vec top = splat(*running_max);
  for (int64_t j = 0; j < columns; j += kLanes) {
    Vec x = load(scores + j);
    if (partial) {
      x = select(inside(key + j, keys), x, splat(-INFINITY));
      store(scores + j, x);
    }
    top = max(x, top);
  }
  const float new_max = largest(top);
  if (new_max == -INFINITY) {  // this query sees none of the keys so far
    for (int64_t j = 0; j < columns; ++j) scores[j] = 0.0f;
    return;
  }
  Vec added = {};
  for (int64_t j = 0; j < columns; j += kLanes) {
    Vec p = exp(load(scores + j) - new_max);
    if (partial) p = select(inside(key + j, keys), p, Vec{});
    added += p;
    store(scores + j, p);
  }
  if (new_max > *running_max) {
    const float shrink = exp(splat(*running_max - new_max))[0];
    *running_total *= shrink;
    for (int64_t d = 0; d < depth; d += kLanes) store(sums + d, load(sums + d) * shrink);
    *running_max = new_max;
  }
  *running_total += sum(added);
  if (s.dropout.scale != 0.0f) {
    float factors[kKeyBlock];
    dropout_factors(s, task, position_of(s, text, query), key, factors);
    for (int64_t j = 0; j < columns; ++j) scores[j] *= factors[j];
  }
}

template <typename P>
void forward_task(const AttentionForward& a, const Task& task, int64_t depth, const ForwardScratch<P>& scratch) {
  const AttentionShape& s = a.shape;
  const Text text = text_of(s, task.text);
  const int64_t first = task.chunk * kQueryChunk, count = at_most(kQueryChunk, text.q_count - first);
  const int64_t kv_head = task.head / group_of(s);
  pack_left(a.q, task.head, text.q_begin + first, count, s.head_dim, depth, s.scale, scratch.queries);
  for (int64_t i = 0; i < count * depth; ++i) scratch.sums[i] = 0.0f;
  for (int64_t i = 0; i < count; ++i) {
    scratch.largest[i] = -INFINITY;
    scratch.total[i] = 0.0f;
  }
  const Keys all = keys_of(s, text, first, first + count);
  for (int64_t key = all.begin / kKeyBlock * kKeyBlock; key < all.end; key += kKeyBlock) {
    const int64_t keys = at_most(kKeyBlock, text.k_count - key);
    pack_turned(a.k, kv_head, text.k_begin + key, keys, s.head_dim, depth, scratch.keys);
    pack_right(a.v, kv_head, text.k_begin + key, keys, s.head_dim, depth, 1.0f, scratch.values);
    for (int64_t block = 0; block < count; block += kQueryBlock) {
      const int64_t rows = at_most(kQueryBlock, count - block);
      const Keys seen = keys_of(s, text, first + block, first + block + rows);
      if (seen.begin >= key + keys || seen.end <= key) continue;
      const int64_t used = at_most(keys, seen.end - key), columns = round_up(used, kLanes);
      gemm<P>(rows, columns, inner<P>(depth), scratch.queries + block * inner<P>(depth), inner<P>(depth), 1,
              scratch.keys, kKeyBlock, scratch.scores, kKeyBlock, false);
      for (int64_t i = 0; i < rows; ++i) {
        const int64_t row = block + i;
        softmax_row(s, task, text, first + row, key, columns, depth, scratch.scores + i * kKeyBlock,
                    scratch.sums + row * depth, scratch.largest + row, scratch.total + row);
      }
      gemm<P>(rows, depth, inner<P>(used), scores_left(scratch.scores, rows, columns, scratch.probabilities),
              inner<P>(kKeyBlock), 1, scratch.values, depth, scratch.sums + block * depth, depth, true);
    }
  }
  const int64_t rows_q = s.cu_seqlens_q[s.texts];
  for (int64_t i = 0; i < count; ++i) {
    const int64_t row = text.q_begin + first + i;
    const float inverse = 1.0f / scratch.total[i];
    float* out = a.out.data + row * a.out.row_stride + task.head * a.out.head_stride;
    for (int64_t d = 0; d < s.head_dim; ++d) out[d] = scratch.sums[i * depth + d] * inverse;
    a.log_sum_exp[task.head * rows_q + row] = scratch.largest[i] + logf(scratch.total[i]);
  }
}

template <typename P>
struct BackwardScratch {
  typename P::Number *keys, *keys_turned, *values_turned, *queries, *queries_right, *dout, *dout_right, *left;
  float *dkeys, *dvalues, *dqueries, *scores, *dscores;

  static int64_t size(int64_t depth) {
    return 5 * kKeyChunk * depth + 5 * kQueryBlock * depth + 3 * kQueryBlock * kKeyBlock;
  }
  BackwardScratch(float* at, int64_t depth) {
    keys = reinterpret_cast<typename P::Number*>(at);
    keys_turned = keys + kKeyChunk * depth;
    values_turned = keys_turned + kKeyChunk * depth;
    queries = values_turned + kKeyChunk * depth;
    queries_right = queries + kQueryBlock * depth;
    dout = queries_right + kQueryBlock * depth;
    dout_right = dout + kQueryBlock * depth;
    left = dout_right + kQueryBlock * depth;
    dkeys = reinterpret_cast<float*>(left + kQueryBlock * kKeyBlock);
    dvalues = dkeys + kKeyChunk * depth;
    dqueries = dvalues + kKeyChunk * depth;
    scores = dqueries + kQueryBlock * depth;
    dscores = scores + kQueryBlock * kKeyBlock;
  }
};

// Turns the scores of one query into P, masked by dropout, and dscores from dP into dS.
void softmax_row_backward(const AttentionShape& s, const Task& task, const Text& text, int64_t query, int64_t key,
                          int64_t columns, float log_sum_exp, float delta, float* scores, float* dscores) {
  const Keys keys = keys_of(s, text, query);
  const bool dropped = s.dropout.scale != 0.0f;
  float factors[kKeyBlock];
  if (dropped) dropout_factors(s, task, position_of(s, text, query), key, factors);
  for (int64_t j = 0; j < columns; j += kLanes) {
    const IntVec mask = inside(key + j, keys);
    const Vec p = select(mask, exp(load(scores + j) - log_sum_exp), Vec{});
    const Vec factor = dropped ? load(factors + j) : splat(1.0f);
    store(dscores + j, select(mask, p * (load(dscores + j) * factor - delta), Vec{}));
    store(scores + j, p * factor);
  }
}

// Adds what the queries of one head give to dkeys and dvalues, and writes their dQ of this chunk's keys to `dq`, whose
// row 0 is the text's first query. The task's head is that of the keys.
template <typename P>
void backward_head(const AttentionBackward& a, const Task& keys_task, int64_t head, const float* delta,
                   const MutableHeads& dq, int64_t depth, const BackwardScratch<P>& scratch) {
  const AttentionShape& s = a.shape;
  const Task task = {keys_task.text, head, keys_task.chunk};
  const Text text = text_of(s, task.text);
  const int64_t rows_q = s.cu_seqlens_q[s.texts];
  const int64_t first = task.chunk * kKeyChunk, count = at_most(kKeyChunk, text.k_count - first);
  const int64_t pairs = inner<P>(depth);  // or numbers, in fp32
  for (int64_t block = 0; block < text.q_count; block += kQueryBlock) {
    const int64_t rows = at_most(kQueryBlock, text.q_count - block), begin = text.q_begin + block;
    const Keys seen = keys_of(s, text, block, block + rows);
    pack_left(a.q, task.head, begin, rows, s.head_dim, depth, s.scale, scratch.queries);
    pack_left(a.dout, task.head, begin, rows, s.head_dim, depth, 1.0f, scratch.dout);
    const auto* queries =
        right_of(scratch.queries, a.q, task.head, begin, rows, s.head_dim, depth, s.scale, scratch.queries_right);
    const auto* dout =
        right_of(scratch.dout, a.dout, task.head, begin, rows, s.head_dim, depth, 1.0f, scratch.dout_right);
    for (int64_t i = 0; i < rows * depth; ++i) scratch.dqueries[i] = 0.0f;
    for (int64_t key = 0; key < count; key += kKeyBlock) {
      const int64_t keys = at_most(kKeyBlock, count - key);
      if (seen.begin >= first + key + keys || seen.end <= first + key) continue;
      const int64_t used = at_most(keys, seen.end - (first + key)), columns = round_up(used, kLanes);
      gemm<P>(rows, columns, pairs, scratch.queries, pairs, 1, scratch.keys_turned + key * pairs, kKeyBlock,
              scratch.scores, kKeyBlock, false);
      gemm<P>(rows, columns, pairs, scratch.dout, pairs, 1, scratch.values_turned + key * pairs, kKeyBlock,
              scratch.dscores, kKeyBlock, false);
      for (int64_t i = 0; i < rows; ++i) {
        const int64_t at = task.head * rows_q + begin + i;
        softmax_row_backward(s, task, text, block + i, first + key, columns, a.log_sum_exp[at], delta[at],
                             scratch.scores + i * kKeyBlock, scratch.dscores + i * kKeyBlock);
      }
      gemm<P>(used, depth, inner<P>(rows), scores_turned(scratch.scores, rows, columns, scratch.left), 1, kKeyBlock,
              dout, depth, scratch.dvalues + key * depth, depth, true);
      gemm<P>(used, depth, inner<P>(rows), scores_turned(scratch.dscores, rows, columns, scratch.left), 1, kKeyBlock,
              queries, depth, scratch.dkeys + key * depth, depth, true);
      gemm<P>(rows, depth, inner<P>(used), scores_left(scratch.dscores, rows, columns, scratch.left),
              inner<P>(kKeyBlock), 1, scratch.keys + inner<P>(key) * depth, depth, scratch.dqueries, depth, true);
    }
    for (int64_t i = 0; i < rows; ++i) {
      float* to = dq.data + (block + i) * dq.row_stride + task.head * dq.head_stride;
      for (int64_t d = 0; d < s.head_dim; ++d) to[d] = scratch.dqueries[i * depth + d] * s.scale;
    }
  }
}

template <typename P>
void backward_task(const AttentionBackward& a, const Task& task, const float* delta, const MutableHeads& dq,
                   int64_t depth, const BackwardScratch<P>& scratch) {
  const AttentionShape& s = a.shape;
  const Text text = text_of(s, task.text);
  const int64_t first = task.chunk * kKeyChunk, count = at_most(kKeyChunk, text.k_count - first);
  const int64_t padded = round_up(count, kKeyBlock);
  const int64_t pairs = inner<P>(depth);
  pack_right(a.k, task.head, text.k_begin + first, count, s.head_dim, depth, 1.0f, scratch.keys);
  for (int64_t key = 0; key < padded; key += kKeyBlock) {
    const int64_t begin = text.k_begin + first + key, keys = at_most(kKeyBlock, count - key);
    pack_turned(a.k, task.head, begin, keys, s.head_dim, depth, scratch.keys_turned + key * pairs);
    pack_turned(a.v, task.head, begin, keys, s.head_dim, depth, scratch.values_turned + key * pairs);
  }
  for (int64_t i = 0; i < count * depth; ++i) scratch.dkeys[i] = scratch.dvalues[i] = 0.0f;

  const int64_t group = group_of(s);
  for (int64_t head = task.head * group; head < (task.head + 1) * group; ++head) {
    backward_head<P>(a, task, head, delta, dq, depth, scratch);
  }
  for (int64_t j = 0; j < count; ++j) {
    const int64_t row = text.k_begin + first + j;
    float* dk = a.dk.data + row * a.dk.row_stride + task.head * a.dk.head_stride;
    float* dv = a.dv.data + row * a.dv.row_stride + task.head * a.dv.head_stride;
    for (int64_t d = 0; d < s.head_dim; ++d) {
      dk[d] = scratch.dkeys[j * depth + d];
      dv[d] = scratch.dvalues[j * depth + d];
    }
  }
}

// delta[head, row] = sum over d of dO O, which equals the sum over keys of dP P.
void output_dot(const AttentionBackward& a, int64_t rows_q, float* delta, int threads) {
  const AttentionShape& s = a.shape;
  parallel_for(rows_q, rows_q * s.heads * s.head_dim, threads, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t head = 0; head < s.heads; ++head) {
        const float* out = a.out.data + row * a.out.row_stride + head * a.out.head_stride;
        const float* dout = a.dout.data + row * a.dout.row_stride + head * a.dout.head_stride;
        Vec total = {};
        int64_t d = 0;
        for (; d + kLanes <= s.head_dim; d += kLanes) total += load(out + d) * load(dout + d);
        float dot = sum(total);
        for (; d < s.head_dim; ++d) dot += out[d] * dout[d];
        delta[head * rows_q + row] = dot;
      }
    }
  });
}

// Number of buffers beside dq that collect a text's dQ, [q_count, heads, head_dim] each and contiguous per text: the
// first chunk of keys writes to dq, every other chunk to its own buffer, and add_parts adds these in order.
int64_t parts_of(const AttentionShape& s, int64_t text) {
  const int64_t keys = text_of(s, text).k_count;
  return keys <= kKeyChunk ? 0 : (keys + kKeyChunk - 1) / kKeyChunk - 1;
}

void add_parts(const AttentionBackward& a, const int64_t* part_begin, const float* parts, int threads) {
  const AttentionShape& s = a.shape;
  const int64_t width = s.heads * s.head_dim;
  for (int64_t t = 0; t < s.texts; ++t) {
    const Text text = text_of(s, t);
    const int64_t count = parts_of(s, t);
    if (count == 0) continue;
    parallel_for(text.q_count, text.q_count * width, threads, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        for (int64_t head = 0; head < s.heads; ++head) {
          float* to = a.dq.data + (text.q_begin + i) * a.dq.row_stride + head * a.dq.head_stride;
          for (int64_t part = 0; part < count; ++part) {
            const float* from = parts + part_begin[t] + (part * text.q_count + i) * width + head * s.head_dim;
            for (int64_t d = 0; d < s.head_dim; ++d) to[d] += from[d];
          }
        }
      }
    });
  }
}

float* allocate(int64_t floats) {
  return static_cast<float*>(aligned_alloc(64, static_cast<size_t>(round_up(floats * 4 + 64, 64))));
}

// Calls body(task, the thread's scratch) for all tasks in parallel; returns false if allocation of the scratch fails.
template <typename Scratch, typename Body>
bool for_tasks(const Task* tasks, int64_t count, int64_t depth, int threads, const Body& body) {
  const int64_t size = round_up(Scratch::size(depth), 16);
  float* memory = allocate(size * threads);
  if (!memory) return false;
  int next_scratch = 0;
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    int mine;
#pragma omp atomic capture
    mine = next_scratch++;
    const Scratch scratch(memory + mine * size, depth);
#pragma omp for schedule(dynamic, 1)
    for (int64_t i = 0; i < count; ++i) body(tasks[i], scratch);
  }
  free(memory);
  return true;
}

}  // namespace

namespace {

template <typename P>
bool forward(const AttentionForward& a) {
  const int64_t depth = round_up(a.shape.head_dim, kLanes);
  int64_t count = 0;
  Task* tasks = list_tasks(a.shape, a.shape.cu_seqlens_q, a.shape.heads, kQueryChunk, &count);
  const bool enough = tasks && for_tasks<ForwardScratch<P>>(tasks, count, depth, thread_count(a.shape),
                                                            [&](const Task& task, const ForwardScratch<P>& scratch) {
                                                              forward_task<P>(a, task, depth, scratch);
                                                            });
  free(tasks);
  return enough;
}

template <typename P>
bool backward(const AttentionBackward& a) {
  const AttentionShape& s = a.shape;
  const int64_t depth = round_up(s.head_dim, kLanes);
  const int64_t rows_q = s.cu_seqlens_q[s.texts], width = s.heads * s.head_dim;
  const int threads = thread_count(s);
  int64_t count = 0;
  Task* tasks = list_tasks(s, s.cu_seqlens_k, s.kv_heads, kKeyChunk, &count);
  int64_t* part_begin = static_cast<int64_t*>(malloc(static_cast<size_t>(s.texts + 1) * sizeof(int64_t)));
  float* delta = allocate(s.heads * rows_q);
  int64_t part_floats = 0;
  for (int64_t t = 0; part_begin && t < s.texts; ++t) {
    part_begin[t] = part_floats;
    part_floats += parts_of(s, t) * text_of(s, t).q_count * width;
  }
  float* parts = part_floats > 0 ? allocate(part_floats) : nullptr;
  bool enough = tasks && part_begin && delta && (parts || part_floats == 0);
  if (enough) {
    output_dot(a, rows_q, delta, threads);
    enough = for_tasks<BackwardScratch<P>>(
        tasks, count, depth, threads, [&](const Task& task, const BackwardScratch<P>& scratch) {
          const Text text = text_of(s, task.text);
          MutableHeads dq = {a.dq.data + text.q_begin * a.dq.row_stride, a.dq.row_stride, a.dq.head_stride};
          if (task.chunk > 0) {
            dq = {parts + part_begin[task.text] + (task.chunk - 1) * text.q_count * width, width, s.head_dim};
          }
          backward_task<P>(a, task, delta, dq, depth, scratch);
        });
    if (enough) add_parts(a, part_begin, parts, threads);
  }
  free(parts);
  free(delta);
  free(part_begin);
  free(tasks);
  return enough;
}

}  // namespace

bool attention_forward(const AttentionForward& a) { return a.shape.bf16 ? forward<Bf16>(a) : forward<Fp32>(a); }

bool attention_backward(const AttentionBackward& a) { return a.shape.bf16 ? backward<Bf16>(a) : backward<Fp32>(a); }

}  // namespace PYLLMCLF_SIMD
}  // namespace pyllmclf
