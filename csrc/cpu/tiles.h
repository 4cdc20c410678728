// AMX's tile registers: eight of at most 16 rows of 64 bytes, which are configured, used and released per thread. The
// instructions are in a build for AMX-BF16; with PYLLMCLF_TILE_MODEL a software model of the registers replaces them
// (tests/native/tile_model.h). Any other build has no tiles, and doesn't define PYLLMCLF_TILES.
//
// The macros take literal tile numbers, because GCC's intrinsics paste them into the names of registers.
#pragma once

#include "simd.h"

#if defined(PYLLMCLF_TILE_MODEL)

#include "tile_model.h"
#define PYLLMCLF_TILES
#define PYLLMCLF_TILE_CONFIGURE(config) tile_model_configure(config)
#define PYLLMCLF_TILE_RELEASE() tile_model_release()
#define PYLLMCLF_TILE_ZERO(tile) tile_model_zero(tile)
#define PYLLMCLF_TILE_LOAD(tile, from, row_bytes) tile_model_load(tile, from, row_bytes)
#define PYLLMCLF_TILE_STORE(tile, to, row_bytes) tile_model_store(tile, to, row_bytes)
#define PYLLMCLF_TILE_ADD_PRODUCT(sums, a, b) tile_model_add_product(sums, a, b)

#elif defined(__AMX_TILE__) && defined(__AMX_BF16__)

#define PYLLMCLF_TILES
#define PYLLMCLF_TILE_CONFIGURE(config) _tile_loadconfig(config)
#define PYLLMCLF_TILE_RELEASE() _tile_release()
#define PYLLMCLF_TILE_ZERO(tile) _tile_zero(tile)
#define PYLLMCLF_TILE_LOAD(tile, from, row_bytes) _tile_loadd(tile, from, row_bytes)
#define PYLLMCLF_TILE_STORE(tile, to, row_bytes) _tile_stored(tile, to, row_bytes)
#define PYLLMCLF_TILE_ADD_PRODUCT(sums, a, b) _tile_dpbf16ps(sums, a, b)

#endif

#ifdef PYLLMCLF_TILES

namespace pyllmclf {
namespace PYLLMCLF_SIMD {

// The operand of ldtilecfg, for palette 1.
struct alignas(64) TileConfig {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];  // of tiles 0 to 7; the rest is 0
  uint8_t rows[16];
};
static_assert(sizeof(TileConfig) == 64);

// Makes the compiler finish its stores before tiles are loaded: GCC's intrinsics don't say that they read memory, or
// how much of it.
PYLLMCLF_INLINE void before_tiles_read(const void* memory) { __asm__ volatile("" : : "r"(memory) : "memory"); }

}  // namespace PYLLMCLF_SIMD
}  // namespace pyllmclf

#endif
