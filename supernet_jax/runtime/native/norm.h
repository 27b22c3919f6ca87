// What normalisation is made of, for kernels that do it in part; norm.cc has it.
//
// Arrays are [rows, channels], vectors [channels].

#ifndef SUPERNET_JAX_NATIVE_NORM_H_
#define SUPERNET_JAX_NATIVE_NORM_H_

#include <cstdint>
#include <vector>

#include "common.h"

namespace supernet {

struct Channel {  // z = (x - mean) * factor + shift
  const float *mean, *factor, *shift;
};

// The vectors of a Channel, and what variances divide by: 1 / sqrt(variance + epsilon).
struct Normalisation {
  std::vector<float> mean, inverse, factor, shift;

  // With zeros up to `stored` channels.
  Normalisation(int64_t channels, int64_t stored, const float* mean, const float* variance,
                const float* scale, const float* bias, float epsilon);
  Channel Of() const { return {mean.data(), factor.data(), shift.data()}; }
};

// Mean and biased variance.
void Moments(ffi::ThreadPool& pool, int64_t rows, int64_t channels, const float* x, float* mean,
             float* variance);

// y = z, or z * sigmoid(z) with swish.
void Apply(ffi::ThreadPool& pool, int64_t rows, int64_t channels, const float* x, const Channel& of,
           float* y, bool swish);

// Sums of the gradient with respect to z, from that of y, and of its product with x - mean.
void Sums(ffi::ThreadPool& pool, int64_t rows, int64_t channels, const float* g, const float* x,
          const Channel& of, double* total, double* along, bool swish);

// What those sums say. The gradient of x is that of z times factor, and besides
// slope * (x - mean) + offset.
struct Outcome {
  std::vector<float> slope, offset;

  // of_mean, of_variance: gradients of the moments; dscale, dbias: are written.
  Outcome(int64_t rows, int64_t channels, const Normalisation& norm, const double* total,
          const double* along, const float* of_mean, const float* of_variance, float* dscale,
          float* dbias);
};

// The gradient of x, from that of y and what an Outcome has.
void InputGradient(ffi::ThreadPool& pool, int64_t rows, int64_t channels, const float* g,
                   const float* x, const Channel& of, const float* slope, const float* offset,
                   float* dx, bool swish);

}  // namespace supernet

#endif  // SUPERNET_JAX_NATIVE_NORM_H_
