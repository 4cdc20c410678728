// fp16 for the emulator: 5 bits of exponent, 10 of fraction, rounded to nearest even.
#pragma once

#include <math.h>
#include <stdint.h>

struct __half {
  uint16_t bits = 0;
  __half() = default;
  explicit __half(float x) {
    const uint16_t sign = signbit(x) ? 0x8000 : 0;
    const float size = fabsf(x);
    if (isnan(x)) {
      bits = 0x7e00;
    } else if (size >= 65520.0f) {
      bits = 0x7c00;
    } else if (size < 6.103515625e-05f) {  // 2^-14: subnormal, in steps of 2^-24
      bits = static_cast<uint16_t>(nearbyintf(ldexpf(size, 24)));
    } else {
      int exponent;
      const float fraction = frexpf(size, &exponent);  // in [1/2, 1)
      // A fraction that rounds up to 1 carries into the exponent.
      bits = static_cast<uint16_t>((exponent + 13) * 1024 + static_cast<int>(nearbyintf(ldexpf(fraction, 11))));
    }
    bits |= sign;
  }
  operator float() const {
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    float size = ldexpf(static_cast<float>(fraction), -24);
    if (exponent == 31) {
      size = fraction ? nanf("") : INFINITY;
    } else if (exponent > 0) {
      size = ldexpf(static_cast<float>(1024 + fraction), exponent - 25);
    }
    return bits & 0x8000 ? -size : size;
  }
};

inline float __half2float(__half x) { return x; }
inline __half __float2half(float x) { return __half(x); }
