// What the CPU part of the native core offers. Raw pointers and sizes; no torch, no Python.
#pragma once

namespace pyllmclf {

// The best of the levels that the native core distinguishes and that this machine offers:
// "x86-64-v3" (AVX2 and FMA), or "baseline".
const char* simd_level();

}  // namespace pyllmclf
