// Linear layer in bf16 with fp32 sums, and its weight's gradient fused with AdamW's step.
//
// The weight stays in fp32, or in bf16 as it is in its file where it is not trained: a panel of some of its outputs is
// rounded and packed for all rows at once, which costs less than keeping and reading packed copies (the forward pass
// needs another layout than the backward pass).
//
// With AMX the sums are in its tiles, of 32 x 32 at a time; panels have the layout of its right operand already. Panels
// are filled with zero pairs up to whole tiles.
#include <stdlib.h>

#include "adamw.h"
#include "ops.h"
#include "pairs.h"
#include "tile_sums.h"

namespace pyllmclf {
namespace PYLLMCLF_SIMD {
namespace {

int32_t* allocate(int64_t pairs) {
  return static_cast<int32_t*>(aligned_alloc(64, static_cast<size_t>(divide_up(pairs * 4 + 64, 64) * 64)));
}

#ifdef PYLLMCLF_TILES
constexpr int64_t kPanel = 2 * kTileBlock;
constexpr int64_t kStep = kTileSide;
#else
// Forward: a tile uses 29 of 32 vector registers, 6 x 4 sums, four vectors of the panel and one broadcast of x.
constexpr int kRows = 6;
constexpr int kVecs = 4;
constexpr int64_t kPanel = kVecs * kLanes;
constexpr int64_t kStep = 1;  // pairs that a product takes at once
#endif
// Rows of x that share a packed panel, and pairs of a panel: half a megabyte, so that it stays in the L2 cache.
constexpr int64_t kRowChunk = 512;
constexpr int64_t kDepth = 2048;
// The prefetcher of the processor does not follow kLanes rows at once.
constexpr int64_t kAhead = 128;

// Fills rows [rows, round_up(rows, kStep)) of a packed panel with zeros.
PYLLMCLF_INLINE void fill_step(int32_t* panel, int64_t rows, int64_t panel_row) {
  memset(panel + rows * panel_row, 0, static_cast<size_t>((round_up(rows, kStep) - rows) * panel_row) * 4);
}

// Packs pairs [first, first + depth) of the outputs [output, output + kPanel) of a weight [outputs, inputs].
void pack_outputs(const Bf16Operands& a, int64_t outputs, int64_t output, int64_t first, int64_t depth,
                  int32_t* panel) {
  for (int64_t group = 0; group < kPanel; group += kLanes) {
    for (int64_t k = 0; k < depth; k += kLanes) {
      const int64_t input = 2 * (first + k), left = at_most(a.inputs - input, 2 * kLanes);
      IntVec rows[kLanes];
      for (int64_t j = 0; j < kLanes; ++j) {
        const int64_t row = output + group + j;
        if (row >= outputs) {
          rows[j] = IntVec{};
          continue;
        }
        if (a.weight_bf16) {
          const uint16_t* from = a.weight_bf16 + row * a.weight_row + input;
          __builtin_prefetch(from + kAhead);
          rows[j] = IntVec{};
          if (left >= 2 * kLanes) {
            memcpy(&rows[j], from, sizeof(IntVec));
          } else {
            memcpy(&rows[j], from, static_cast<size_t>(left) * sizeof(uint16_t));
          }
          continue;
        }
        const float* from = a.weight + row * a.weight_row + input;
        __builtin_prefetch(from + kAhead);
        alignas(64) float numbers[2 * kLanes];
        if (left < 2 * kLanes || a.scale != 1.0f) {
          for (int64_t i = 0; i < 2 * kLanes; ++i) numbers[i] = i < left ? from[i] * a.scale : 0.0f;
          from = numbers;
        }
        rows[j] = pairs_along(from);
      }
      if (k + kLanes <= depth) {
        turn_pairs(rows, panel + k * kPanel + group, kPanel);
      } else {
        for (int64_t i = 0; i < depth - k; ++i) {
          for (int64_t j = 0; j < kLanes; ++j) panel[(k + i) * kPanel + group + j] = rows[j][i];
        }
      }
    }
  }
}

// The same of a weight [inputs, outputs].
void pack_inputs(const Bf16Operands& a, int64_t outputs, int64_t output, int64_t first, int64_t depth, int32_t* panel) {
  for (int64_t k = 0; k < depth; ++k) {
    const int64_t at = 2 * (first + k) * a.weight_row + output;
    const bool has_high = 2 * (first + k) + 1 < a.inputs;
    if (a.weight_bf16) {
      const uint16_t* low = a.weight_bf16 + at;
      for (int64_t c = 0; c < kPanel; c += kLanes) {
        const int64_t count = at_least(0, at_most(outputs - output - c, kLanes));
        __builtin_prefetch(low + 16 * a.weight_row + c);
        __builtin_prefetch(low + 17 * a.weight_row + c);
        const HalfVec other = has_high ? read_halves(low + a.weight_row + c, count) : HalfVec{};
        store_pairs(panel + k * kPanel + c, pairs_across(read_halves(low + c, count), other));
      }
      continue;
    }
    const float* low = a.weight + at;
    for (int64_t c = 0; c < kPanel; c += kLanes) {
      const int64_t left = outputs - output - c, count = left < 0 ? 0 : at_most(left, kLanes);
      // Far ahead, since a row's part is short.
      __builtin_prefetch(low + 16 * a.weight_row + c);
      __builtin_prefetch(low + 17 * a.weight_row + c);
      const Vec one = read(low + c, count) * a.scale;
      const Vec other = has_high ? read(low + a.weight_row + c, count) * a.scale : Vec{};
      store_pairs(panel + k * kPanel + c, pairs_across(one, other));
    }
  }
}

// A packed panel of one part of the inner axis: pairs [first, first + depth).
struct Packed {
  const Bf16Operands* operands;
  int64_t first, depth;
  const int32_t* panel;
};

#ifdef PYLLMCLF_TILES

// Copies pairs [first, first + count), count < kTileSide, of some rows of x to tail[rows][kTileSide]; zeros follow
// them.
void copy_tail(const Pair* x, int64_t x_row, int64_t rows, int64_t count, int32_t* tail) {
  memset(tail, 0, static_cast<size_t>(rows * kTileSide) * 4);
  for (int64_t i = 0; i < rows; ++i) memcpy(tail + i * kTileSide, x + i * x_row, static_cast<size_t>(count) * 4);
}

// Writes a block of y, `columns` outputs from `output` on.
void finish_block(const Bf16Linear& a, const float* sums, int64_t row, int64_t rows, int64_t output, int64_t columns,
                  bool add) {
  for (int64_t i = 0; i < rows; ++i) {
    float* y = a.y + (row + i) * a.outputs + output;
    for_columns(columns, [&](int64_t c, int64_t count) {
      Vec sum = load(sums + i * kTileBlock + c);
      if (add) {
        sum += read(y + c, count);
      } else if (a.bias) {
        sum += read(a.bias + output + c, count);
      }
      write(y + c, sum, count);
    });
  }
}

// Rows [row, row + rows) of y at the columns of a panel, from `output` on, over the packed parts. `add`: to y.
void forward_block(const Bf16Linear& a, const Packed* parts, int count, int64_t row, int64_t rows, int64_t output,
                   bool add, TileSums* sums) {
  alignas(64) int32_t tails[2][kTileBlock * kTileSide];
  alignas(64) float block[kTileBlock * kTileBlock];
  const Pair* x[2];
  for (int part = 0; part < count; ++part) {
    const Packed& p = parts[part];
    const int64_t x_row = p.operands->x_row / 2, left = p.depth % kTileSide;
    x[part] = reinterpret_cast<const Pair*>(p.operands->x + row * p.operands->x_row) + p.first;
    if (left) copy_tail(x[part] + p.depth - left, x_row, rows, left, tails[part]);
  }
  const int64_t end = at_most(a.outputs - output, kPanel);
  for (int64_t column = 0; column < end; column += kTileBlock) {
    const int64_t columns = at_most(end - column, kTileBlock);
    sums->begin(rows, columns);
    for (int part = 0; part < count; ++part) {
      const Packed& p = parts[part];
      const int64_t steps = p.depth / kTileSide;
      const int32_t* panel = p.panel + column;
      sums->add(steps, x[part], p.operands->x_row / 2, kTileSide, panel, kPanel);
      if (p.depth % kTileSide) sums->add(1, tails[part], kTileSide, 0, panel + steps * kTileSide * kPanel, kPanel);
    }
    sums->store(block, kTileBlock);
    finish_block(a, block, row, rows, output + column, columns, add);
  }
}

void forward_panel(const Bf16Linear& a, const Packed* parts, int count, int64_t begin, int64_t end, int64_t output,
                   bool add) {
  TileSums sums;
  for (int64_t row = begin; row < end; row += kTileBlock) {
    forward_block(a, parts, count, row, at_most(end - row, kTileBlock), output, add, &sums);
  }
}

#else

// Rows [row, row + kCount) of y at kWide vectors of columns from `output` on, over the packed parts. `add`: to y.
template <int kCount, int kWide>
void forward_tile(const Bf16Linear& a, const Packed* parts, int count, int64_t row, int64_t output, bool add) {
  Vec sums[kCount][kWide];
  for_tile<kCount, kWide>([&](int i, int j) { sums[i][j] = Vec{}; });
  for (int part = 0; part < count; ++part) {
    const Packed& p = parts[part];
    const Pair* x = reinterpret_cast<const Pair*>(p.operands->x + row * p.operands->x_row) + p.first;
    pair_tile<kCount, kWide>(p.depth, x, p.operands->x_row / 2, 1, p.panel, kPanel, sums);
  }
  float* y = a.y + row * a.outputs + output;
  const float* bias = add ? nullptr : a.bias;
  const int64_t columns = a.outputs - output;
  for_tile<kCount, kWide>([&](int i, int j) {
    const int64_t left = at_most(columns - j * kLanes, kLanes);
    if (left <= 0) return;
    float* to = y + i * a.outputs + j * kLanes;
    if (bias) sums[i][j] += read(bias + output + j * kLanes, left);
    write(to, add ? sums[i][j] + read(to, left) : sums[i][j], left);
  });
}

template <int kWide>
void forward_rows(const Bf16Linear& a, const Packed* parts, int count, int64_t begin, int64_t end, int64_t output,
                  bool add) {
  int64_t row = begin;
  for (; row + kRows <= end; row += kRows) forward_tile<kRows, kWide>(a, parts, count, row, output, add);
  switch (end - row) {
    case 5:
      return forward_tile<5, kWide>(a, parts, count, row, output, add);
    case 4:
      return forward_tile<4, kWide>(a, parts, count, row, output, add);
    case 3:
      return forward_tile<3, kWide>(a, parts, count, row, output, add);
    case 2:
      return forward_tile<2, kWide>(a, parts, count, row, output, add);
    case 1:
      return forward_tile<1, kWide>(a, parts, count, row, output, add);
    default:
      return;
  }
}

void forward_panel(const Bf16Linear& a, const Packed* parts, int count, int64_t begin, int64_t end, int64_t output,
                   bool add) {
  if (a.outputs - output <= kLanes) {
    forward_rows<1>(a, parts, count, begin, end, output, add);
  } else {
    forward_rows<kVecs>(a, parts, count, begin, end, output, add);
  }
}

#endif

// One panel of outputs for some rows, a block of the inner axis after the other; the adapter comes with the last one.
void forward_task(const Bf16Linear& a, int64_t panel, int64_t begin, int64_t end, int32_t* scratch) {
  const int64_t output = panel * kPanel, pairs = divide_up(a.base.inputs, 2);
  const auto pack = a.transposed ? pack_inputs : pack_outputs;
  const int64_t blocks = pairs ? divide_up(pairs, kDepth) : 1;
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t first = block * kDepth, depth = at_most(pairs - first, kDepth);
    Packed parts[2] = {{&a.base, first, depth, scratch}};
    pack(a.base, a.outputs, output, first, depth, scratch);
    fill_step(scratch, depth, kPanel);
    int count = 1;
    if (a.adapter.inputs && block + 1 == blocks) {
      int32_t* behind = scratch + round_up(depth, kStep) * kPanel;
      const int64_t rank = divide_up(a.adapter.inputs, 2);
      pack(a.adapter, a.outputs, output, 0, rank, behind);
      fill_step(behind, rank, kPanel);
      parts[count++] = {&a.adapter, 0, rank, behind};
    }
    forward_panel(a, parts, count, begin, end, output, block > 0);
  }
}

// Gradient: a tile is 8 outputs x 3 vectors of inputs. dy and x are packed as the tiles read them.
constexpr int kOutputs = 8;
constexpr int kInputVecs = 3;
constexpr int64_t kInputs = kInputVecs * kLanes;
// The same of a weight of many outputs.
#ifdef PYLLMCLF_TILES
constexpr int64_t kWideOutputs = kTileBlock, kWideInputs = kTileBlock;
#else
constexpr int64_t kWideOutputs = kOutputs, kWideInputs = kInputs;
#endif
// Outputs of a task, whose tiles of the same inputs come one after the other: their part of x stays in the L1 cache,
// and the next inputs are in the same pages of the weight and its moments.
constexpr int64_t kOutputBlock = 96;
static_assert(kOutputBlock % kWideOutputs == 0);
// Pairs of rows of a block of the inner axis.
constexpr int64_t kPairBlock = 1024;

// Packs columns [first, first + kColumns) of rows [rows, width] as [pair of rows][kColumns], zeros beyond the matrix.
template <int64_t kColumns>
void pack_pairs_of_rows(const uint16_t* from, int64_t row, int64_t rows, int64_t width, int64_t first, int32_t* to) {
  const int64_t columns = at_most(width - first, kColumns);
  for (int64_t k = 0; k < rows; k += 2) {
    const uint16_t* low = from + k * row + first;
    int64_t c = 0;
    for (; c < columns; c += kLanes) {
      const int64_t count = at_most(columns - c, at_most(kLanes, kColumns));
      const IntVec pairs =
          pairs_across(read_halves(low + c, count), k + 1 < rows ? read_halves(low + row + c, count) : HalfVec{});
      // The last columns of a tile narrower than a vector
      memcpy(to + k / 2 * kColumns + c, &pairs, static_cast<size_t>(at_most(kColumns - c, kLanes)) * sizeof(int32_t));
    }
    for (; c < kColumns; c += 1) to[k / 2 * kColumns + c] = 0;
  }
}

#ifdef PYLLMCLF_TILES
// Packs columns [first, first + kTileBlock) of rows [rows, width] turned: for every kTileSide pairs of rows
// [kTileBlock][kTileSide], zeros beyond the matrix.
void pack_turned_pairs(const uint16_t* from, int64_t row, int64_t rows, int64_t width, int64_t first, int32_t* to) {
  for (int64_t step = 0; step < rows; step += 2 * kTileSide, to += kTileBlock * kTileSide) {
    for (int64_t k = 0; k < kTileSide; k += kLanes) {
      for (int64_t c = 0; c < kTileBlock; c += kLanes) {
        const int64_t count = at_least(0, at_most(width - first - c, kLanes));
        IntVec pairs[kLanes];
        for (int64_t j = 0; j < kLanes; ++j) {
          const int64_t low = step + 2 * (k + j);
          const uint16_t* at = from + low * row + first + c;
          pairs[j] = low < rows && count ? pairs_across(read_halves(at, count),
                                                        low + 1 < rows ? read_halves(at + row, count) : HalfVec{})
                                         : IntVec{};
        }
        turn_pairs(pairs, to + c * kTileSide + k, kTileSide);
      }
    }
  }
}
#endif

// Packs kWideOutputs columns of dy, and kWideInputs columns of x, for `pairs` pairs of rows, a multiple of kStep.
void pack_dy(const Bf16WeightGradient& a, int64_t output, int32_t* to) {
#ifdef PYLLMCLF_TILES
  pack_turned_pairs(a.dy, a.dy_row, a.rows, a.outputs, output, to);
#else
  pack_pairs_of_rows<kOutputs>(a.dy, a.dy_row, a.rows, a.outputs, output, to);
#endif
}
void pack_x(const Bf16WeightGradient& a, int64_t input, int32_t* to) {
  pack_pairs_of_rows<kWideInputs>(a.x, a.x_row, a.rows, a.inputs, input, to);
  fill_step(to, divide_up(a.rows, 2), kWideInputs);
}

// Finished sums of one vector of the gradient.
PYLLMCLF_INLINE void finish(const Bf16WeightGradient& a, const AdamWStep& adamw, int64_t at, Vec sums, int64_t count) {
  if (a.weight) {
    adamw.apply(a.weight + at, a.exp_avg + at, a.exp_avg_sq + at, read(a.weight + at, count), sums, count);
  } else {
    write(a.gradient + at, a.accumulate ? read(a.gradient + at, count) + sums : sums, count);
  }
}

// Finished sums of a tile, whose outputs and inputs may end within it.
PYLLMCLF_INLINE void finish_tile(const Bf16WeightGradient& a, const AdamWStep& adamw, int64_t output, int64_t input,
                                 const Vec (&sums)[kOutputs][kInputVecs]) {
  const int64_t outputs = a.outputs - output, inputs = a.inputs - input;
  if (outputs >= kOutputs && inputs >= kInputs) {
    for_tile<kOutputs, kInputVecs>(
        [&](int i, int j) { finish(a, adamw, (output + i) * a.inputs + input + j * kLanes, sums[i][j], kLanes); });
    return;
  }
  for_tile<kOutputs, kInputVecs>([&](int i, int j) {
    const int64_t count = at_most(inputs - j * kLanes, kLanes);
    if (i < outputs && count > 0) {
      finish(a, adamw, (output + i) * a.inputs + input + j * kLanes, sums[i][j], count);
    }
  });
}

// Brings a row of a tile's weight and moments, or of its gradient, into the cache.
PYLLMCLF_INLINE void prefetch_row(const Bf16WeightGradient& a, int64_t output, int64_t input) {
  if (output >= a.outputs) return;
  const int64_t at = output * a.inputs + input;
  for (int64_t i = 0; i < kWideInputs; i += 16) {  // a line of the cache
    if (a.weight) {
      __builtin_prefetch(a.weight + at + i, 1);
      __builtin_prefetch(a.exp_avg + at + i, 1);
      __builtin_prefetch(a.exp_avg_sq + at + i, 1);
    } else {
      __builtin_prefetch(a.gradient + at + i, 1);
    }
  }
}

// A tile of a weight's gradient, and the next one. `partial`, of rows of `width`, holds the sums between blocks of the
// inner axis.
struct GradientTile {
  int64_t output, input, next_output, next_input;
  float* partial;
  int64_t width;
  bool first, last;  // blocks of the inner axis
};

// Adds the products of `depth` pairs of rows, a multiple of kStep, and finishes the tile in the last block. The next
// tile's rows are fetched one by one meanwhile: all at once, the processor would wait for them.
#ifdef PYLLMCLF_TILES
void gradient_tile(const Bf16WeightGradient& a, const AdamWStep& adamw, const GradientTile& tile, int64_t depth,
                   const int32_t* left, const int32_t* right, TileSums* sums) {
  const int64_t outputs = at_most(a.outputs - tile.output, kTileBlock);
  const int64_t inputs = at_most(a.inputs - tile.input, kTileBlock);
  const int64_t rows = round_up(outputs, kTileSide);
  tile.first ? sums->begin(rows, inputs) : sums->begin(rows, inputs, tile.partial, tile.width);
  const int64_t steps = depth / kTileSide;
  for (int64_t i = 0, done = 0; i < kWideOutputs; ++i) {
    if (tile.last) prefetch_row(a, tile.next_output + i, tile.next_input);
    const int64_t until = steps * (i + 1) / kWideOutputs;
    if (until == done) continue;
    sums->add(until - done, left + done * kTileBlock * kTileSide, kTileSide, kTileBlock * kTileSide,
              right + done * kTileSide * kWideInputs, kWideInputs);
    done = until;
  }
  if (!tile.last) return sums->store(tile.partial, tile.width);
  alignas(64) float block[kTileBlock * kTileBlock];
  sums->store(block, kTileBlock);
  for (int64_t i = 0; i < outputs; ++i) {
    for_columns(inputs, [&](int64_t c, int64_t count) {
      finish(a, adamw, (tile.output + i) * a.inputs + tile.input + c, load(block + i * kTileBlock + c), count);
    });
  }
}
#else
struct TileSums {};  // the registers of this build need no set-up

PYLLMCLF_INLINE void gradient_tile(const Bf16WeightGradient& a, const AdamWStep& adamw, const GradientTile& tile,
                                   int64_t depth, const int32_t* left, const int32_t* right, TileSums*) {
  Vec sums[kOutputs][kInputVecs];
  for_tile<kOutputs, kInputVecs>(
      [&](int i, int j) { sums[i][j] = tile.first ? Vec{} : load(tile.partial + i * tile.width + j * kLanes); });
  for (int64_t i = 0, done = 0; i < kOutputs; ++i) {
    if (tile.last) prefetch_row(a, tile.next_output + i, tile.next_input);
    const int64_t until = depth * (i + 1) / kOutputs;
    pair_tile<kOutputs, kInputVecs>(until - done, left + done * kOutputs, 1, kOutputs, right + done * kInputs, kInputs,
                                    sums);
    done = until;
  }
  if (tile.last) return finish_tile(a, adamw, tile.output, tile.input, sums);
  for_tile<kOutputs, kInputVecs>([&](int i, int j) { store(tile.partial + i * tile.width + j * kLanes, sums[i][j]); });
}
#endif

// Outputs [begin, begin + kOutputBlock) of the gradient, from the packed dy and x. `partial` [kOutputBlock, inputs
// rounded up to kWideInputs] holds the sums between blocks of the inner axis.
void gradient_task(const Bf16WeightGradient& a, const AdamWStep& adamw, const int32_t* dy, const int32_t* x,
                   int64_t begin, float* partial) {
  const int64_t pairs = round_up(divide_up(a.rows, 2), kStep), blocks = pairs ? divide_up(pairs, kPairBlock) : 1;
  const int64_t end = at_most(begin + kOutputBlock, a.outputs), width = round_up(a.inputs, kWideInputs);
  TileSums sums;
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t first = block * kPairBlock, depth = at_most(pairs - first, kPairBlock);
    for (int64_t input = 0; input < a.inputs; input += kWideInputs) {
      for (int64_t output = begin; output < end; output += kWideOutputs) {
        const bool same_inputs = output + kWideOutputs < end;
        const GradientTile tile = {output,
                                   input,
                                   same_inputs ? output + kWideOutputs : begin,
                                   same_inputs ? input : input + kWideInputs,
                                   partial + (output - begin) * width + input,
                                   width,
                                   block == 0,
                                   block + 1 == blocks};
        gradient_tile(a, adamw, tile, depth, dy + output * pairs + first * kWideOutputs,
                      x + input * pairs + first * kWideInputs, &sums);
      }
    }
  }
}

// The gradient of a weight of few outputs, such as a low-rank factor's: to pack x would cost more than the products. A
// task is one panel of inputs.
void narrow_task(const Bf16WeightGradient& a, const AdamWStep& adamw, const int32_t* dy, int64_t input) {
  const int64_t pairs = a.rows / 2, columns = at_most(a.inputs - input, kInputs);
  const uint16_t* x = a.x + input;
  const auto right_of = [&](int64_t row, int64_t column) {
    const int64_t count = at_most(columns - column, kLanes);
    if (count <= 0) return IntVec{};
    const uint16_t* low = x + row * a.x_row + column;
    return pairs_across(read_halves(low, count), row + 1 < a.rows ? read_halves(low + a.x_row, count) : HalfVec{});
  };
  for (int64_t output = 0; output < a.outputs; output += kOutputs) {
    const int32_t* left = dy + output * divide_up(a.rows, 2);
    Vec sums[kOutputs][kInputVecs];
    for_tile<kOutputs, kInputVecs>([&](int i, int j) { sums[i][j] = Vec{}; });
    if (columns == kInputs) {
      pair_tile<kOutputs, kInputVecs>(
          pairs, left, 1, kOutputs,
          [&](int64_t k, int j) {
            const uint16_t* low = x + 2 * k * a.x_row + j * kLanes;
            return pairs_across(read_halves(low, kLanes), read_halves(low + a.x_row, kLanes));
          },
          sums);
    }
    const int64_t first = columns == kInputs ? pairs : 0;
    pair_tile<kOutputs, kInputVecs>(
        divide_up(a.rows, 2) - first, left + first * kOutputs, 1, kOutputs,
        [&](int64_t k, int j) { return right_of(2 * (first + k), j * kLanes); }, sums);
    finish_tile(a, adamw, output, input, sums);
  }
}

bool narrow_gradient(const Bf16WeightGradient& a) {
  const int64_t pairs = divide_up(a.rows, 2), tiles = divide_up(a.outputs, kOutputs);
  int32_t* dy = allocate(tiles * pairs * kOutputs);
  if (!dy) return false;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const int64_t first = tile * kOutputs;
    pack_pairs_of_rows<kOutputs>(a.dy, a.dy_row, a.rows, a.outputs, first, dy + first * pairs);
  }
  const AdamWStep adamw(a.adamw);
  parallel_for(divide_up(a.inputs, kInputs), a.rows * a.outputs * a.inputs / 8, a.threads,
               [&](int64_t begin, int64_t end) {
                 for (int64_t panel = begin; panel < end; ++panel) narrow_task(a, adamw, dy, panel * kInputs);
               });
  free(dy);
  return true;
}

}  // namespace

bool bf16_linear(const Bf16Linear& a) {
  const int64_t panels = divide_up(a.outputs, kPanel), chunks = divide_up(a.rows, kRowChunk);
  const int64_t depth =
      round_up(at_most(divide_up(a.base.inputs, 2), kDepth), kStep) + round_up(divide_up(a.adapter.inputs, 2), kStep);
  const int64_t size = depth * kPanel + 16;
  int32_t* memory = allocate(size * a.threads);
  if (!memory) return false;
  int next = 0;
  const int64_t work = a.rows * a.outputs * a.base.inputs / 8;
  parallel_for(panels * chunks, work, a.threads, [&](int64_t begin, int64_t end) {
    int mine;
#pragma omp atomic capture
    mine = next++;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task % chunks * kRowChunk;
      forward_task(a, task / chunks, first, at_most(first + kRowChunk, a.rows), memory + mine * size);
    }
  });
  free(memory);
  return true;
}

bool bf16_weight_gradient(const Bf16WeightGradient& a) {
  constexpr int64_t kNarrow = 8 * kOutputs;
  if (a.outputs <= kNarrow) return narrow_gradient(a);
  const int64_t pairs = round_up(divide_up(a.rows, 2), kStep), panels = divide_up(a.inputs, kWideInputs);
  const int64_t tiles = divide_up(a.outputs, kWideOutputs), tasks = divide_up(a.outputs, kOutputBlock);
  const int64_t partial = pairs > kPairBlock ? kOutputBlock * panels * kWideInputs : 0;
  int32_t* x = allocate(panels * pairs * kWideInputs);
  int32_t* dy = allocate(tiles * pairs * kWideOutputs);
  float* memory = reinterpret_cast<float*>(allocate(partial * a.threads));
  const bool enough = x && dy && memory;
  if (enough) {
    const AdamWStep adamw(a.adamw);
    parallel_for(panels + tiles, a.rows * (a.inputs + a.outputs), a.threads, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        if (i < panels) {
          pack_x(a, i * kWideInputs, x + i * pairs * kWideInputs);
        } else {
          const int64_t output = (i - panels) * kWideOutputs;
          pack_dy(a, output, dy + output * pairs);
        }
      }
    });
    int next = 0;
    parallel_for(tasks, a.rows * a.outputs * a.inputs / 8 + a.outputs * a.inputs, a.threads,
                 [&](int64_t begin, int64_t end) {
                   int mine;
#pragma omp atomic capture
                   mine = next++;
                   for (int64_t i = begin; i < end; ++i) {
                     gradient_task(a, adamw, dy, x, i * kOutputBlock, memory + mine * partial);
                   }
                 });
  }
  free(x);
  free(dy);
  free(memory);
  return enough;
}

}  // namespace PYLLMCLF_SIMD
}  // namespace pyllmclf
