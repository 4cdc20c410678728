// Checks the software model of AMX's tiles against Intel's manual, and that it refuses what faults on a processor.
#include <cfloat>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "check.h"
#include "tile_sums.h"

namespace {

using namespace pyllmclf::test_tiles;
using pyllmclf::tile_model::Misuse;
using std::int32_t;
using std::uint16_t;

TileConfig whole() {
  TileConfig config = {};
  config.palette = 1;
  for (int tile = 0; tile < 8; ++tile) config.rows[tile] = 16, config.row_bytes[tile] = 64;
  return config;
}

uint16_t bf16(float x) {  // of a number that bf16 holds
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return static_cast<uint16_t>(bits >> 16);
}

// sum + a[0] b[0] + a[1] b[1] + ... by one product, in the first element of tiles whose other elements are 0.
float product(float sum, const std::vector<float>& a, const std::vector<float>& b) {
  float sums[16][16] = {{sum}};
  uint16_t left[16][32] = {}, right[16][32] = {};
  for (std::size_t k = 0; k < a.size(); ++k) left[0][k] = bf16(a[k]), right[k / 2][k % 2] = bf16(b[k]);
  const TileConfig config = whole();
  tile_model_configure(&config);
  tile_model_load(0, sums, 64);
  tile_model_load(1, left, 64);
  tile_model_load(2, right, 64);
  tile_model_add_product(0, 1, 2);
  tile_model_store(0, sums, 64);
  tile_model_release();
  return sums[0][0];
}

void test_products() {
  check::that(product(1.0f, {2.0f, 3.0f, 4.0f}, {5.0f, 7.0f, 11.0f}) == 76.0f, "a product");
  const float big = 16777216.0f;  // 2^24: adding 1 leaves it as it is
  check::that(product(0.0f, {big, 1.0f, -big, 1.0f}, {1.0f, 1.0f, 1.0f, 1.0f}) == 2.0f, "halves are summed apart");
  check::that(product(big, {1.0f, 1.0f}, {1.0f, 1.0f}) == big + 2.0f, "the tile's number is added last");
  check::that(product(0.0f, {big, 0.0f, 1.0f, 0.0f}, {1.0f, 0.0f, 1.0f, 0.0f}) == big, "ties to even, down");
  check::that(product(0.0f, {big, 0.0f, 3.0f}, {1.0f, 0.0f, 1.0f}) == big + 4.0f, "ties to even, up");
  const float tiny = FLT_MIN / 2;
  check::that(product(0.0f, {tiny}, {2.0f}) == 0.0f, "denormal operand");
  check::that(product(tiny, {0.0f}, {0.0f}) == 0.0f, "denormal sum");
  check::that(product(0.0f, {FLT_MIN}, {0.5f}) == 0.0f, "denormal result");
  check::that(product(0.0f, {FLT_MIN, 0.0f, FLT_MIN}, {1.5f, 0.0f, -0.75f}) == 0.0f, "denormal partial sum");
  check::that(std::isnan(product(0.0f, {std::nanf("")}, {0.0f})), "NaN");
}

void refused(const std::function<void()>& use, const std::string& what) {
  bool thrown = false;
  try {
    use();
  } catch (const Misuse&) {
    thrown = true;
  }
  tile_model_release();
  check::that(thrown, what + " is refused");
}

void refused_config(const std::function<void(TileConfig&)>& change, const std::string& what) {
  TileConfig config = whole();
  change(config);
  refused([&] { tile_model_configure(&config); }, what);
}

void refused_product(const std::function<void(TileConfig&)>& change, const std::string& what) {
  TileConfig config = whole();
  change(config);
  tile_model_configure(&config);
  refused([] { tile_model_add_product(0, 1, 2); }, what);
}

void test_misuse() {
  float memory[256] = {};
  refused([&] { tile_model_load(0, memory, 64); }, "a load without a configuration");
  refused_config([](TileConfig& c) { c.palette = 0; }, "palette 0");
  refused_config([](TileConfig& c) { c.rows[0] = 17; }, "a tile of 17 rows");
  refused_config([](TileConfig& c) { c.row_bytes[7] = 65; }, "a row of 65 bytes");
  refused_config([](TileConfig& c) { c.rows[3] = 0; }, "a tile of no rows");
  refused_config([](TileConfig& c) { c.reserved[0] = 1; }, "a reserved byte");
  refused_config([](TileConfig& c) { c.rows[8] = 1; }, "a ninth tile");
  refused_product([](TileConfig& c) { c.rows[1] = 15; }, "a left tile of other rows");
  refused_product([](TileConfig& c) { c.row_bytes[2] = 60; }, "a right tile of other columns");
  refused_product([](TileConfig& c) { c.row_bytes[1] = 60; }, "a left tile of other pairs");
  refused_product([](TileConfig& c) { c.rows[2] = 0, c.row_bytes[2] = 0; }, "a tile that is not configured");
  const TileConfig config = whole();
  tile_model_configure(&config);
  refused([] { tile_model_add_product(0, 1, 1); }, "a product of a tile with itself");
}

void test_release() {
  {
    TileSums sums;
    sums.begin(3, 3);
    check::that(pyllmclf::tile_model::configured_threads == 1, "a block configures tiles");
  }
  check::that(pyllmclf::tile_model::configured_threads == 0, "the end of a block releases them");
  { TileSums unused; }
  check::that(pyllmclf::tile_model::configured_threads == 0, "an unused block has none");
}

}  // namespace

int main() {
  test_products();
  test_misuse();
  test_release();
  return check::finish("tiles");
}
