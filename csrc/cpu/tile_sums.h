// Sums of products of bf16 pairs in AMX's tiles, a block of at most 32 x 32 at a time.
#pragma once

#include "tiles.h"

#ifdef PYLLMCLF_TILES

namespace pyllmclf {
namespace PYLLMCLF_SIMD {

// Rows of a tile; sums of a row; pairs of a row of an operand.
constexpr int64_t kTileSide = 16;
constexpr int64_t kTileBlock = 2 * kTileSide;

// A block of sums. Tiles 0 and 1 hold the first 16 rows of the block, tiles 2 and 3 the others; tiles 4 and 5 hold rows
// of the left operand, tiles 6 and 7 columns of the right one. The thread's tiles are released with the object.
class TileSums {
 public:
  TileSums() = default;
  TileSums(const TileSums&) = delete;
  TileSums& operator=(const TileSums&) = delete;
  ~TileSums() {
    if (rows_ > 0) PYLLMCLF_TILE_RELEASE();
  }

  // Begins a block of zeros.
  void begin(int64_t rows, int64_t columns) {
    set_size(rows, columns);
    PYLLMCLF_TILE_ZERO(0);
    if (wide_) PYLLMCLF_TILE_ZERO(1);
    if (rows_ <= kTileSide) return;
    PYLLMCLF_TILE_ZERO(2);
    if (wide_) PYLLMCLF_TILE_ZERO(3);
  }

  // Begins a block of the sums at `from`, in whole tiles.
  void begin(int64_t rows, int64_t columns, const float* from, int64_t row) {
    set_size(rows, columns);
    before_tiles_read(from);
    PYLLMCLF_TILE_LOAD(0, from, 4 * row);
    if (wide_) PYLLMCLF_TILE_LOAD(1, from + kTileSide, 4 * row);
    if (rows_ <= kTileSide) return;
    from += kTileSide * row;
    PYLLMCLF_TILE_LOAD(2, from, 4 * row);
    if (wide_) PYLLMCLF_TILE_LOAD(3, from + kTileSide, 4 * row);
  }

  // Adds A B over `steps` of 16 pairs. Row i of A in step s begins at a + s a_step + i a_row; B is packed, its rows are
  // b_row apart.
  void add(int64_t steps, const void* a, int64_t a_row, int64_t a_step, const int32_t* b, int64_t b_row) {
    before_tiles_read(a);
    before_tiles_read(b);
    const char* left = static_cast<const char*>(a);
    if (rows_ > kTileSide) {
      wide_ ? add_steps<true, true>(steps, left, 4 * a_row, 4 * a_step, b, b_row)
            : add_steps<true, false>(steps, left, 4 * a_row, 4 * a_step, b, b_row);
    } else {
      wide_ ? add_steps<false, true>(steps, left, 4 * a_row, 4 * a_step, b, b_row)
            : add_steps<false, false>(steps, left, 4 * a_row, 4 * a_step, b, b_row);
    }
  }

  // Stores the block, in whole tiles.
  void store(float* to, int64_t row) const {
    PYLLMCLF_TILE_STORE(0, to, 4 * row);
    if (wide_) PYLLMCLF_TILE_STORE(1, to + kTileSide, 4 * row);
    if (rows_ <= kTileSide) return;
    to += kTileSide * row;
    PYLLMCLF_TILE_STORE(2, to, 4 * row);
    if (wide_) PYLLMCLF_TILE_STORE(3, to + kTileSide, 4 * row);
  }

 private:
  void set_size(int64_t rows, int64_t columns) {
    wide_ = columns > kTileSide;
    if (rows == rows_) return;
    rows_ = rows;
    const uint8_t first = static_cast<uint8_t>(at_most(rows, kTileSide));
    const uint8_t second = static_cast<uint8_t>(rows - first), all = kTileSide;
    TileConfig config = {};
    config.palette = 1;
    const uint8_t tile_rows[] = {first, first, second, second, first, second, all, all};
    for (int tile = 0; tile < 8; ++tile) {
      config.rows[tile] = tile_rows[tile];
      config.row_bytes[tile] = tile_rows[tile] ? 64 : 0;
    }
    before_tiles_read(&config);
    PYLLMCLF_TILE_CONFIGURE(&config);
  }

  // a_row and a_step are in bytes.
  template <bool kTall, bool kWide>
  static PYLLMCLF_INLINE void add_steps(int64_t steps, const char* a, int64_t a_row, int64_t a_step, const int32_t* b,
                                        int64_t b_row) {
    for (int64_t step = 0; step < steps; ++step) {
      const int32_t* right = b + step * kTileSide * b_row;
      PYLLMCLF_TILE_LOAD(6, right, 4 * b_row);
      PYLLMCLF_TILE_LOAD(4, a + step * a_step, a_row);
      PYLLMCLF_TILE_ADD_PRODUCT(0, 4, 6);
      if constexpr (kWide) {
        PYLLMCLF_TILE_LOAD(7, right + kTileSide, 4 * b_row);
        PYLLMCLF_TILE_ADD_PRODUCT(1, 4, 7);
      }
      if constexpr (kTall) {
        PYLLMCLF_TILE_LOAD(5, a + step * a_step + kTileSide * a_row, a_row);
        PYLLMCLF_TILE_ADD_PRODUCT(2, 5, 6);
        if constexpr (kWide) PYLLMCLF_TILE_ADD_PRODUCT(3, 5, 7);
      }
    }
  }

  int64_t rows_ = 0;  // 0: the tiles are not configured
  bool wide_ = false;
};

}  // namespace PYLLMCLF_SIMD
}  // namespace pyllmclf

#endif
