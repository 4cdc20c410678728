// Attention whose scores have terms of the bucket b of each distance (pyllmclf/ops/relative_attention.py):
//
//   S = scale (q kᵀ + QT[query, b] + KT[key, b]) + bias[b]   with QT = q position_keysᵀ, KT = k position_queriesᵀ
//
// A text's scores of one block of queries stand in scratch memory; no other matrix grows with the square of its length.
// Backward: probabilities are recomputed from the saved log-sum-exp, dS as in attention.cpp; dQT and dKT are the sums
// of dS over the distances of each bucket, and products with them give what else q, k and the positions get.
//
// A task of the backward pass is a group of texts and one head, and sums over the texts of a group run in their order,
// those over groups afterwards: the shape alone determines the tasks, and any number of threads gives the same bits.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "attention_packs.h"

namespace pyllmclf {
namespace PYLLMCLF_SIMD {
namespace {

// Groups of texts, each with sums of its own for the gradients of the positions.
constexpr int64_t kGroups = 4;

// Lengths that scratch memory is made for.
struct Sizes {
  int64_t depth;    // head_dim, rounded up
  int64_t keys;     // of the longest text, rounded up
  int64_t buckets;  // of any text, rounded up
};

Sizes sizes_of(const AttentionShape& s, const PositionTerms& terms) {
  Sizes sizes = {round_up(s.head_dim, kLanes), 0, round_up(terms.count, kKeyBlock)};
  for (int64_t t = 0; t < s.texts; ++t) {
    sizes.keys = at_least(sizes.keys, round_up(text_of(s, t).k_count, kKeyBlock));
  }
  return sizes;
}

// Memory of one thread, which hands it out in parts.
class Arena {
 public:
  // Without memory it only counts.
  explicit Arena(float* memory) : memory_(memory) {}
  float* take(int64_t count) {
    float* taken = memory_ ? memory_ + taken_ : nullptr;
    taken_ += round_up(count, 16);
    return taken;
  }
  int64_t taken() const { return taken_; }

 private:
  float* memory_;
  int64_t taken_ = 0;
};

// What both passes keep of one text and head.
struct Scratch {
  Sizes sizes;
  int32_t* buckets;              // [2 keys + kLanes]: bucket of each distance of the text, less the lowest
  float *keys, *keys_turned;     // [keys, depth], and blocks of [depth, kKeyBlock]
  float* position_keys_turned;   // blocks of [depth, kKeyBlock]
  float* position_rows;          // [buckets, depth]
  float* turned;                 // [depth, kKeyBlock]
  float* key_table;              // KT [keys, buckets]
  float *queries, *query_table;  // [kQueryBlock, depth], QT [kQueryBlock, buckets]
  float* scores;                 // [kQueryBlock, keys]

  Scratch(Arena& arena, const Sizes& s, const PositionTerms& terms) : sizes(s) {
    buckets = reinterpret_cast<int32_t*>(arena.take(2 * s.keys + kLanes));
    keys = arena.take(s.keys * s.depth);
    keys_turned = arena.take(s.keys * s.depth);
    position_keys_turned = arena.take(terms.keys.data ? s.buckets * s.depth : 0);
    position_rows = arena.take(s.buckets * s.depth);
    turned = arena.take(s.depth * kKeyBlock);
    key_table = arena.take(terms.queries.data ? s.keys * s.buckets : 0);
    queries = arena.take(kQueryBlock * s.depth);
    query_table = arena.take(kQueryBlock * s.buckets);
    scores = arena.take(kQueryBlock * s.keys);
  }
};

// The buckets of a text's distances: those from `lowest` on, `count` of them.
struct Range {
  int64_t lowest, count;
  // Whether queries are so few that single elements of KT cost less than the table. position_rows holds the positions
  // then, times scale.
  bool sparse;
};

// Packs rows transposed in blocks of kKeyBlock; `packed` has depth numbers for each row, rounded up.
void pack_blocks(const Heads& x, int64_t head, int64_t begin, int64_t count, int64_t head_dim, int64_t depth,
                 float* packed) {
  for (int64_t i = 0; i < count; i += kKeyBlock) {
    pack_columns(x, head, begin + i, at_most(kKeyBlock, count - i), head_dim, depth, packed + i * depth);
  }
}

// out[rows, count] = left[rows, depth] rightᵀ, of rows that pack_blocks has packed; rounds count up to vectors.
void multiply_blocks(int64_t rows, int64_t count, int64_t depth, const float* left, const float* packed, float* out,
                     int64_t out_row) {
  for (int64_t i = 0; i < count; i += kKeyBlock) {
    gemm<Fp32>(rows, round_up(at_most(kKeyBlock, count - i), kLanes), depth, left, depth, 1, packed + i * depth,
               kKeyBlock, out + i, out_row, false);
  }
}

PYLLMCLF_INLINE IntVec load_buckets(const int32_t* p) { return load_pairs(p); }

// Of rows whose width is a multiple of kLanes.
PYLLMCLF_INLINE float dot(const float* x, const float* y, int64_t width) {
  Vec total = {};
  for (int64_t d = 0; d < width; d += kLanes) total += load(x + d) * load(y + d);
  return sum(total);
}

PYLLMCLF_INLINE void add_scaled(float* to, float factor, const float* x, int64_t width) {
  for (int64_t d = 0; d < width; d += kLanes) store(to + d, load(to + d) + load(x + d) * factor);
}

PYLLMCLF_INLINE Vec gather(const float* table, IntVec index) {
  Vec x;
  for (int i = 0; i < kLanes; ++i) x[i] = table[index[i]];
  return x;
}

// Packs the keys of one text and what does not depend on its queries.
Range begin_text(const AttentionShape& s, const PositionTerms& terms, const Heads& k, const Text& text, int64_t head,
                 const Scratch& scratch) {
  const int64_t depth = scratch.sizes.depth, count = text.k_count;
  const int32_t* of_text = terms.buckets + terms.most - count;
  int64_t lowest = of_text[0], highest = of_text[0];
  for (int64_t i = 1; i < 2 * count - 1; ++i) {
    lowest = at_most(lowest, of_text[i]);
    highest = at_least(highest, of_text[i]);
  }
  for (int64_t i = 0; i < 2 * count - 1; ++i) scratch.buckets[i] = of_text[i] - static_cast<int32_t>(lowest);
  // Vectors of a row's end read them; their scores are hidden.
  for (int64_t i = 2 * count - 1; i < 2 * count + kLanes; ++i) scratch.buckets[i] = 0;
  const Range range = {lowest, highest - lowest + 1, 2 * text.q_count < highest - lowest + 1};
  pack_rows(k, head, text.k_begin, count, s.head_dim, depth, 1.0f, scratch.keys);
  pack_blocks(k, head, text.k_begin, count, s.head_dim, depth, scratch.keys_turned);
  if (terms.queries.data && range.sparse) {
    pack_rows(terms.queries, head, range.lowest, range.count, s.head_dim, depth, s.scale, scratch.position_rows);
  } else if (terms.queries.data) {
    for (int64_t i = 0; i < range.count; i += kKeyBlock) {
      const int64_t columns = at_most(kKeyBlock, range.count - i);
      pack_columns(terms.queries, head, range.lowest + i, columns, s.head_dim, depth, scratch.turned);
      gemm<Fp32>(count, round_up(columns, kLanes), depth, scratch.keys, depth, 1, scratch.turned, kKeyBlock,
                 scratch.key_table + i, scratch.sizes.buckets, false);
    }
  }
  if (terms.keys.data) {
    pack_blocks(terms.keys, head, range.lowest, range.count, s.head_dim, depth, scratch.position_keys_turned);
  }
  return range;
}

// Scores of a block of queries, without the mask: scratch.scores [rows, keys]. Packs the queries, times scale.
void block_scores(const AttentionShape& s, const PositionTerms& terms, const Heads& q, const Text& text, int64_t head,
                  int64_t block, int64_t rows, const Range& range, const Scratch& scratch) {
  const int64_t depth = scratch.sizes.depth, row = scratch.sizes.keys, table_row = scratch.sizes.buckets;
  pack_rows(q, head, text.q_begin + block, rows, s.head_dim, depth, s.scale, scratch.queries);
  multiply_blocks(rows, text.k_count, depth, scratch.queries, scratch.keys_turned, scratch.scores, row);
  const float* bias = terms.bias ? terms.bias + head * terms.count + range.lowest : nullptr;
  if (terms.keys.data) {
    multiply_blocks(rows, range.count, depth, scratch.queries, scratch.position_keys_turned, scratch.query_table,
                    table_row);
  }
  for (int64_t i = 0; i < rows; ++i) {
    const int32_t* index = scratch.buckets + (text.k_count - 1) - position_of(s, text, block + i);
    const float* by_query = bias;
    if (terms.keys.data) {
      float* table = scratch.query_table + i * table_row;
      for (int64_t b = 0; bias && b < range.count; ++b) table[b] += bias[b];
      by_query = table;
    }
    float* scores = scratch.scores + i * row;
    for (int64_t j = 0; j < text.k_count; j += kLanes) {
      const IntVec b = load_buckets(index + j);
      Vec x = load(scores + j);
      if (by_query) x += gather(by_query, b);
      if (terms.queries.data && !range.sparse) {
        // Behind the last key, rows of another text or none: hidden, but read.
        const float* table = scratch.key_table + j * table_row;
        Vec by_key;
        for (int lane = 0; lane < kLanes; ++lane) by_key[lane] = table[lane * table_row + b[lane]];
        x += by_key * s.scale;
      }
      store(scores + j, x);
    }
    for (int64_t j = 0; terms.queries.data && range.sparse && j < text.k_count; ++j) {
      scores[j] += dot(scratch.keys + j * depth, scratch.position_rows + index[j] * depth, depth);
    }
  }
}

struct ForwardScratch : Scratch {
  float *values, *sums;
  ForwardScratch(Arena& arena, const Sizes& s, const PositionTerms& terms)
      : Scratch(arena, s, terms), values(arena.take(s.keys * s.depth)), sums(arena.take(kQueryBlock * s.depth)) {}
};

// Turns a row of scores into probabilities, masked by dropout; returns the log of the sum of their exponentials.
float softmax(const AttentionShape& s, const Task& task, const Text& text, int64_t query, float* scores) {
  const Keys keys = keys_of(s, text, query);
  Vec top = splat(-INFINITY);
  for (int64_t j = 0; j < text.k_count; j += kLanes) {
    const Vec x = select(inside(j, keys), load(scores + j), splat(-INFINITY));
    store(scores + j, x);
    top = max(x, top);
  }
  const float most = largest(top);
  Vec added = {};
  for (int64_t j = 0; j < text.k_count; j += kLanes) {
    const Vec p = select(inside(j, keys), exp(load(scores + j) - most), Vec{});
    added += p;
    store(scores + j, p);
  }
  const float total = sum(added), inverse = 1.0f / total;
  const bool dropped = s.dropout.scale != 0.0f;
  float factors[kKeyBlock];
  for (int64_t key = 0; key < text.k_count; key += kKeyBlock) {
    if (dropped) dropout_factors(s, task, position_of(s, text, query), key, factors);
    const int64_t columns = round_up(at_most(kKeyBlock, text.k_count - key), kLanes);
    for (int64_t j = 0; j < columns; j += kLanes) {
      const Vec p = load(scores + key + j) * inverse;
      store(scores + key + j, dropped ? p * load(factors + j) : p);
    }
  }
  return most + logf(total);
}

void forward_task(const RelativeAttentionForward& a, const Task& task, const ForwardScratch& scratch) {
  const AttentionShape& s = a.shape;
  const Text text = text_of(s, task.text);
  const int64_t depth = scratch.sizes.depth, row = scratch.sizes.keys, rows_q = s.cu_seqlens_q[s.texts];
  if (text.q_count == 0) return;
  const Range range = begin_text(s, a.terms, a.k, text, task.head, scratch);
  pack_rows(a.v, task.head, text.k_begin, text.k_count, s.head_dim, depth, 1.0f, scratch.values);
  for (int64_t block = 0; block < text.q_count; block += kQueryBlock) {
    const int64_t rows = at_most(kQueryBlock, text.q_count - block);
    block_scores(s, a.terms, a.q, text, task.head, block, rows, range, scratch);
    for (int64_t i = 0; i < rows; ++i) {
      a.log_sum_exp[task.head * rows_q + text.q_begin + block + i] =
          softmax(s, task, text, block + i, scratch.scores + i * row);
    }
    gemm<Fp32>(rows, depth, text.k_count, scratch.scores, row, 1, scratch.values, depth, scratch.sums, depth, false);
    for (int64_t i = 0; i < rows; ++i) {
      float* out = a.out.data + (text.q_begin + block + i) * a.out.row_stride + task.head * a.out.head_stride;
      for (int64_t d = 0; d < s.head_dim; ++d) out[d] = scratch.sums[i * depth + d];
    }
  }
}

// Sums over the texts of a group, of one head.
struct PositionSums {
  float *bias, *keys, *queries;  // [count], [count, depth], [count, depth]; null where they are not wanted
};

struct BackwardScratch : Scratch {
  float *values_turned, *dout, *dscores, *dqueries, *dkeys, *dvalues, *dquery_table, *dkey_table, *position_key_rows;
  BackwardScratch(Arena& arena, const Sizes& s, const PositionTerms& terms) : Scratch(arena, s, terms) {
    values_turned = arena.take(s.keys * s.depth);
    dout = arena.take(kQueryBlock * s.depth);
    dscores = arena.take(kQueryBlock * s.keys);
    dqueries = arena.take(kQueryBlock * s.depth);
    dkeys = arena.take(s.keys * s.depth);
    dvalues = arena.take(s.keys * s.depth);
    dquery_table = arena.take(kQueryBlock * s.buckets);
    dkey_table = arena.take(terms.queries.data ? s.keys * s.buckets : 0);
    position_key_rows = arena.take(terms.keys.data ? s.buckets * s.depth : 0);
  }
};

// Turns the scores of one query into P, masked by dropout, and dscores from dP into dS.
void softmax_backward(const AttentionShape& s, const Task& task, const Text& text, int64_t query, float log_sum_exp,
                      float delta, float* scores, float* dscores) {
  const Keys keys = keys_of(s, text, query);
  const bool dropped = s.dropout.scale != 0.0f;
  float factors[kKeyBlock];
  for (int64_t key = 0; key < text.k_count; key += kKeyBlock) {
    if (dropped) dropout_factors(s, task, position_of(s, text, query), key, factors);
    const int64_t columns = round_up(at_most(kKeyBlock, text.k_count - key), kLanes);
    for (int64_t j = 0; j < columns; j += kLanes) {
      const IntVec mask = inside(key + j, keys);
      const Vec p = select(mask, exp(load(scores + key + j) - log_sum_exp), Vec{});
      const Vec factor = dropped ? load(factors + j) : splat(1.0f);
      store(dscores + key + j, select(mask, p * (load(dscores + key + j) * factor - delta), Vec{}));
      store(scores + key + j, p * factor);
    }
  }
}

float dot_of_row(const Heads& a, const Heads& b, int64_t row, int64_t head, int64_t head_dim) {
  const float* x = a.data + row * a.row_stride + head * a.head_stride;
  const float* y = b.data + row * b.row_stride + head * b.head_stride;
  Vec total = {};
  int64_t d = 0;
  for (; d + kLanes <= head_dim; d += kLanes) total += load(x + d) * load(y + d);
  float result = sum(total);
  for (; d < head_dim; ++d) result += x[d] * y[d];
  return result;
}

void clear(float* x, int64_t count) { memset(x, 0, static_cast<size_t>(count) * sizeof(float)); }

// Adds dS of a block of queries to dQT and dKT, and what follows from dQT: to dqueries, the bias and position_keys.
void backward_tables(const RelativeAttentionBackward& a, const Text& text, int64_t block, int64_t rows,
                     const Range& range, const PositionSums& sums, const BackwardScratch& scratch) {
  const AttentionShape& s = a.shape;
  const int64_t depth = scratch.sizes.depth, row = scratch.sizes.keys, table_row = scratch.sizes.buckets;
  const bool by_query = a.terms.bias || a.terms.keys.data, by_key = a.terms.queries.data;
  for (int64_t i = 0; i < rows; ++i) {
    const int32_t* index = scratch.buckets + (text.k_count - 1) - position_of(s, text, block + i);
    const float* dscores = scratch.dscores + i * row;
    float* dquery = scratch.dquery_table + i * table_row;
    if (by_query) {
      clear(dquery, range.count);
      for (int64_t j = 0; j < text.k_count; ++j) dquery[index[j]] += dscores[j];
    }
    for (int64_t j = 0; by_key && range.sparse && j < text.k_count; ++j) {
      add_scaled(scratch.dkeys + j * depth, dscores[j], scratch.position_rows + index[j] * depth, depth);
      if (sums.queries) {
        float* dposition = sums.queries + (range.lowest + index[j]) * depth;
        add_scaled(dposition, dscores[j], scratch.keys + j * depth, depth);
      }
    }
    if (by_key && !range.sparse) {
      for (int64_t j = 0; j < text.k_count; ++j) scratch.dkey_table[j * table_row + index[j]] += dscores[j];
    }
    if (sums.bias) {
      for (int64_t b = 0; b < range.count; ++b) sums.bias[range.lowest + b] += dquery[b];
    }
  }
  if (!a.terms.keys.data) return;
  gemm<Fp32>(rows, depth, range.count, scratch.dquery_table, table_row, 1, scratch.position_key_rows, depth,
             scratch.dqueries, depth, true);
  if (sums.keys) {
    gemm<Fp32>(range.count, depth, rows, scratch.dquery_table, 1, table_row, scratch.queries, depth,
               sums.keys + range.lowest * depth, depth, true);
  }
}

void backward_text(const RelativeAttentionBackward& a, const Task& task, const PositionSums& sums,
                   const BackwardScratch& scratch) {
  const AttentionShape& s = a.shape;
  const Text text = text_of(s, task.text);
  const int64_t depth = scratch.sizes.depth, row = scratch.sizes.keys, table_row = scratch.sizes.buckets;
  const int64_t head = task.head, rows_q = s.cu_seqlens_q[s.texts];
  clear(scratch.dkeys, text.k_count * depth);
  clear(scratch.dvalues, text.k_count * depth);
  Range range = {0, 0, false};
  if (text.q_count > 0) {
    range = begin_text(s, a.terms, a.k, text, head, scratch);
    if (a.terms.keys.data) {
      pack_rows(a.terms.keys, head, range.lowest, range.count, s.head_dim, depth, 1.0f, scratch.position_key_rows);
    }
    pack_blocks(a.v, head, text.k_begin, text.k_count, s.head_dim, depth, scratch.values_turned);
    if (a.terms.queries.data && !range.sparse) clear(scratch.dkey_table, text.k_count * table_row);
  }
  for (int64_t block = 0; block < text.q_count; block += kQueryBlock) {
    const int64_t rows = at_most(kQueryBlock, text.q_count - block), begin = text.q_begin + block;
    block_scores(s, a.terms, a.q, text, head, block, rows, range, scratch);
    pack_rows(a.dout, head, begin, rows, s.head_dim, depth, 1.0f, scratch.dout);
    multiply_blocks(rows, text.k_count, depth, scratch.dout, scratch.values_turned, scratch.dscores, row);
    for (int64_t i = 0; i < rows; ++i) {
      softmax_backward(s, task, text, block + i, a.log_sum_exp[head * rows_q + begin + i],
                       dot_of_row(a.out, a.dout, begin + i, head, s.head_dim), scratch.scores + i * row,
                       scratch.dscores + i * row);
    }
    gemm<Fp32>(text.k_count, depth, rows, scratch.scores, 1, row, scratch.dout, depth, scratch.dvalues, depth, true);
    gemm<Fp32>(text.k_count, depth, rows, scratch.dscores, 1, row, scratch.queries, depth, scratch.dkeys, depth, true);
    gemm<Fp32>(rows, depth, text.k_count, scratch.dscores, row, 1, scratch.keys, depth, scratch.dqueries, depth, false);
    backward_tables(a, text, block, rows, range, sums, scratch);
    for (int64_t i = 0; i < rows; ++i) {
      float* to = a.dq.data + (begin + i) * a.dq.row_stride + head * a.dq.head_stride;
      for (int64_t d = 0; d < s.head_dim; ++d) to[d] = scratch.dqueries[i * depth + d] * s.scale;
    }
  }
  if (a.terms.queries.data && text.q_count > 0 && !range.sparse) {
    // Both with the factor `scale`: of the positions here, of their sums at the end.
    pack_rows(a.terms.queries, head, range.lowest, range.count, s.head_dim, depth, s.scale, scratch.position_rows);
    gemm<Fp32>(text.k_count, depth, range.count, scratch.dkey_table, table_row, 1, scratch.position_rows, depth,
               scratch.dkeys, depth, true);
    if (sums.queries) {
      gemm<Fp32>(range.count, depth, text.k_count, scratch.dkey_table, 1, table_row, scratch.keys, depth,
                 sums.queries + range.lowest * depth, depth, true);
    }
  }
  for (int64_t j = 0; j < text.k_count; ++j) {
    float* dk = a.dk.data + (text.k_begin + j) * a.dk.row_stride + head * a.dk.head_stride;
    float* dv = a.dv.data + (text.k_begin + j) * a.dv.row_stride + head * a.dv.head_stride;
    for (int64_t d = 0; d < s.head_dim; ++d) {
      dk[d] = scratch.dkeys[j * depth + d];
      dv[d] = scratch.dvalues[j * depth + d];
    }
  }
}

float* allocate(int64_t floats) {
  return static_cast<float*>(aligned_alloc(64, static_cast<size_t>(round_up(floats * 4 + 64, 64))));
}

// Calls body(task, the thread's scratch) for `count` tasks in parallel; returns false if allocation fails.
template <typename Scratch, typename Body>
bool for_tasks(int64_t count, const Sizes& sizes, const PositionTerms& terms, int threads, const Body& body) {
  Arena measured(nullptr);
  Scratch unused(measured, sizes, terms);
  const int64_t size = round_up(measured.taken(), 16);
  float* memory = allocate(size * threads);
  if (!memory) return false;
  int next_scratch = 0;
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    int mine;
#pragma omp atomic capture
    mine = next_scratch++;
    Arena arena(memory + mine * size);
    const Scratch scratch(arena, sizes, terms);
#pragma omp for schedule(dynamic, 1)
    for (int64_t i = 0; i < count; ++i) body(i, scratch);
  }
  free(memory);
  return true;
}

// First text of each group, with about as much work as in the others; [kGroups + 1].
void split_groups(const AttentionShape& s, int64_t* first) {
  const auto work_of = [&](int64_t t) { return text_of(s, t).q_count * text_of(s, t).k_count; };
  int64_t work = 0, all = 0;
  for (int64_t t = 0; t < s.texts; ++t) all += work_of(t);
  int64_t group = 0;
  first[0] = 0;
  for (int64_t t = 0; t < s.texts; ++t) {
    while (group + 1 < kGroups && work * kGroups >= all * (group + 1)) first[++group] = t;
    work += work_of(t);
  }
  while (group < kGroups) first[++group] = s.texts;
}

// to[b, head] = scale * sum over the groups of sums[group, head, b, depth].
void add_groups(const float* sums, const MutableHeads& to, const AttentionShape& s, int64_t count, int64_t depth,
                int64_t step, float scale) {
  for (int64_t head = 0; head < s.heads; ++head) {
    for (int64_t b = 0; b < count; ++b) {
      float* row = to.data + b * to.row_stride + head * to.head_stride;
      for (int64_t d = 0; d < s.head_dim; ++d) {
        float total = 0.0f;
        for (int64_t group = 0; group < kGroups; ++group) {
          total += sums[(group * s.heads + head) * step + b * depth + d];
        }
        row[d] = total * scale;
      }
    }
  }
}

}  // namespace

bool relative_attention_forward(const RelativeAttentionForward& a) {
  const AttentionShape& s = a.shape;
  const Sizes sizes = sizes_of(s, a.terms);
  return for_tasks<ForwardScratch>(
      s.texts * s.heads, sizes, a.terms, thread_count(s),
      [&](int64_t i, const ForwardScratch& scratch) { forward_task(a, {i / s.heads, i % s.heads, 0}, scratch); });
}

bool relative_attention_backward(const RelativeAttentionBackward& a) {
  const AttentionShape& s = a.shape;
  const Sizes sizes = sizes_of(s, a.terms);
  const int64_t count = a.terms.count, table = count * sizes.depth;
  const int64_t of_keys = a.dposition_keys.data ? table : 0, of_queries = a.dposition_queries.data ? table : 0;
  const int64_t of_bias = a.dbias ? count : 0, step = of_bias + of_keys + of_queries;
  float* sums = allocate(kGroups * s.heads * step + 1);
  if (!sums) return false;
  clear(sums, kGroups * s.heads * step);
  int64_t first[kGroups + 1];
  split_groups(s, first);
  const bool enough = for_tasks<BackwardScratch>(
      kGroups * s.heads, sizes, a.terms, thread_count(s), [&](int64_t i, const BackwardScratch& scratch) {
        const int64_t group = i / s.heads, head = i % s.heads;
        float* at = sums + i * step;
        const PositionSums mine = {of_bias ? at : nullptr, of_keys ? at + of_bias : nullptr,
                                   of_queries ? at + of_bias + of_keys : nullptr};
        for (int64_t t = first[group]; t < first[group + 1]; ++t) backward_text(a, {t, head, 0}, mine, scratch);
      });
  if (enough) {
    if (of_keys) add_groups(sums + of_bias, a.dposition_keys, s, count, sizes.depth, step, 1.0f);
    if (of_queries) add_groups(sums + of_bias + of_keys, a.dposition_queries, s, count, sizes.depth, step, s.scale);
    for (int64_t i = 0; of_bias && i < s.heads * count; ++i) {
      float total = 0.0f;
      for (int64_t group = 0; group < kGroups; ++group) {
        total += sums[(group * s.heads + i / count) * step + i % count];
      }
      a.dbias[i] = total;
    }
  }
  free(sums);
  return enough;
}

}  // namespace PYLLMCLF_SIMD
}  // namespace pyllmclf
