// AdamW's step of a vector of parameters (Loshchilov and Hutter 2019).
#pragma once

#include "pyllmclf/cpu.h"
#include "simd.h"

namespace pyllmclf {
namespace PYLLMCLF_SIMD {

struct AdamWStep {
  Vec keep, first, first_rest, second, second_rest, root, eps, step;

  explicit AdamWStep(const AdamW& a)
      : keep(splat(a.keep)),
        first(splat(a.beta1)),
        first_rest(splat(a.beta1_rest)),
        second(splat(a.beta2)),
        second_rest(splat(a.beta2_rest)),
        root(splat(a.inverse_root)),
        eps(splat(a.eps)),
        step(splat(a.step_size)) {}

  // Steps `count` parameters from `weight`, their values in memory, and their moments.
  PYLLMCLF_INLINE void apply(float* memory, float* exp_avg, float* exp_avg_sq, Vec weight, Vec gradient,
                             int64_t count) const {
    const Vec mean = first * read(exp_avg, count) + first_rest * gradient;
    const Vec square = second * read(exp_avg_sq, count) + second_rest * (gradient * gradient);
    write(exp_avg, mean, count);
    write(exp_avg_sq, square, count);
    write(memory, weight * keep - step * mean / (sqrt(square) * root + eps), count);
  }
};

}  // namespace PYLLMCLF_SIMD
}  // namespace pyllmclf
