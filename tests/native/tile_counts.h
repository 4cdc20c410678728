// What the software model of AMX's tiles counts, in all builds and threads.
#pragma once

#include <stdint.h>

namespace pyllmclf {
namespace tile_model {

inline int configured_threads = 0;  // whose tiles are not released
inline int64_t products = 0;

}  // namespace tile_model
}  // namespace pyllmclf
