// A software model of AMX's tile registers, by Intel's manual: palette 1, and tdpbf16ps with its order of additions,
// rounding and zeros for denormal numbers. csrc/cpu/tiles.h uses it in place of the instructions. What faults on a
// processor prints a line and throws.
#pragma once

#include <float.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "tile_counts.h"

namespace pyllmclf {
namespace tile_model {

constexpr int kTiles = 8, kRows = 16, kRowBytes = 64;

struct Misuse {};

}  // namespace tile_model

namespace PYLLMCLF_SIMD {

struct TileFile {
  bool configured;
  int rows[tile_model::kTiles], row_bytes[tile_model::kTiles];
  uint8_t data[tile_model::kTiles][tile_model::kRows][tile_model::kRowBytes];
};
inline thread_local TileFile tile_file;

inline void tile_model_require(bool condition, const char* what) {
  if (condition) return;
  fprintf(stderr, "tiles: %s\n", what);
  throw tile_model::Misuse();
}

inline void tile_model_release() {
  if (tile_file.configured) __atomic_fetch_sub(&tile_model::configured_threads, 1, __ATOMIC_RELAXED);
  tile_file = {};
}

// `from` is 64 bytes: the palette, the row to start at, 14 zeros, the bytes of a row of each tile in 16 bits, 16 zeros,
// the rows of each tile, 8 zeros.
inline void tile_model_configure(const void* from) {
  uint8_t bytes[64];
  memcpy(bytes, from, sizeof bytes);
  tile_model_release();
  tile_model_require(bytes[0] == 1 && bytes[1] == 0, "palette 1 from row 0 alone is modelled");
  for (int i = 2; i < 64; ++i) {
    const bool reserved = i < 16 || (i >= 32 && i < 48) || i >= 56;
    tile_model_require(!reserved || bytes[i] == 0, "reserved bytes of the configuration are not 0");
  }
  TileFile file = {};
  for (int tile = 0; tile < tile_model::kTiles; ++tile) {
    const int rows = bytes[48 + tile], row_bytes = bytes[16 + 2 * tile] | bytes[17 + 2 * tile] << 8;
    tile_model_require(rows <= tile_model::kRows && row_bytes <= tile_model::kRowBytes, "a tile is too large");
    tile_model_require((rows == 0) == (row_bytes == 0), "a tile has rows without bytes, or bytes without rows");
    file.rows[tile] = rows;
    file.row_bytes[tile] = row_bytes;
  }
  file.configured = true;
  tile_file = file;
  __atomic_fetch_add(&tile_model::configured_threads, 1, __ATOMIC_RELAXED);
}

inline void tile_model_check(int tile) {
  tile_model_require(tile_file.configured, "not configured in this thread");
  tile_model_require(tile >= 0 && tile < tile_model::kTiles && tile_file.rows[tile] > 0, "this tile is not configured");
}

inline void tile_model_zero(int tile) {
  tile_model_check(tile);
  memset(tile_file.data[tile], 0, sizeof tile_file.data[tile]);
}

inline void tile_model_load(int tile, const void* from, int64_t row) {
  tile_model_zero(tile);
  for (int i = 0; i < tile_file.rows[tile]; ++i) {
    memcpy(tile_file.data[tile][i], static_cast<const char*>(from) + i * row,
           static_cast<size_t>(tile_file.row_bytes[tile]));
  }
}

inline void tile_model_store(int tile, void* to, int64_t row) {
  tile_model_check(tile);
  for (int i = 0; i < tile_file.rows[tile]; ++i) {
    memcpy(static_cast<char*>(to) + i * row, tile_file.data[tile][i], static_cast<size_t>(tile_file.row_bytes[tile]));
  }
}

// 0 with x's sign for a denormal x.
inline float tile_model_flush(float x) { return __builtin_fabsf(x) < FLT_MIN ? __builtin_copysignf(0.0f, x) : x; }

inline float tile_model_number(const uint8_t* row, int index) {
  uint16_t half;
  memcpy(&half, row + 2 * index, sizeof half);
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float x;
  memcpy(&x, &bits, sizeof x);
  return tile_model_flush(x);
}

// tdpbf16ps: for each sum the products of the first numbers of all pairs are added up, those of the second numbers
// beside them, by fused multiplications and additions; then both, then what the tile held.
inline void tile_model_add_product(int sums, int a, int b) {
  const int used[] = {sums, a, b};
  for (const int tile : used) tile_model_check(tile);
  tile_model_require(sums != a && sums != b && a != b, "a product of a tile with itself");
  const TileFile& file = tile_file;
  const int pairs = file.row_bytes[a] / 4, columns = file.row_bytes[sums] / 4;
  for (const int tile : used) tile_model_require(file.row_bytes[tile] % 4 == 0, "a row of broken pairs");
  tile_model_require(file.rows[sums] == file.rows[a], "rows of the sums and of the left tile");
  tile_model_require(file.row_bytes[sums] == file.row_bytes[b], "columns of the sums and of the right tile");
  tile_model_require(file.rows[b] == pairs, "pairs of the left tile and rows of the right one");
  for (int i = 0; i < file.rows[sums]; ++i) {
    for (int j = 0; j < columns; ++j) {
      float parts[2] = {};
      for (int k = 0; k < pairs; ++k) {
        for (int half = 0; half < 2; ++half) {
          const float left = tile_model_number(file.data[a][i], 2 * k + half);
          const float right = tile_model_number(file.data[b][k], 2 * j + half);
          parts[half] = tile_model_flush(__builtin_fmaf(left, right, parts[half]));
        }
      }
      float sum;
      uint8_t* at = tile_file.data[sums][i] + 4 * j;
      memcpy(&sum, at, sizeof sum);
      sum = tile_model_flush(tile_model_flush(sum) + tile_model_flush(parts[0] + parts[1]));
      memcpy(at, &sum, sizeof sum);
    }
  }
  __atomic_fetch_add(&tile_model::products, 1, __ATOMIC_RELAXED);
}

}  // namespace PYLLMCLF_SIMD
}  // namespace pyllmclf
