// Batch normalisation with or without swish, and its gradient, for XLA on CPU through its FFI.
//
// Each operation is one call, whatever it does once per channel: in a network of hundreds, small
// steps of XLA's cost more to compile, to load and to start than they do to compute.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>
#include <utility>
#include <vector>

#include "norm.h"

namespace {

using supernet::Channel;

struct Kernels {
  void (*moments)(const float*, float*, float*, float*, int64_t, int64_t);
  void (*normalise)(const float*, const Channel&, float*, int64_t, int64_t);
  void (*sums)(const float*, const float*, const Channel&, float*, float*, int64_t, int64_t);
  void (*gradient)(const float*, const float*, const Channel&, const float*, const float*, float*,
                   int64_t, int64_t);
};

#define KERNELS "norm.inc"
#include "every_set.inc"

const Kernels& Pick(bool swish) {
#ifdef SEVERAL_INSTRUCTION_SETS
  if (Available() == Instructions::kAvx512) return avx512::Table(swish);
  if (Available() == Instructions::kAvx2) return avx2::Table(swish);
#endif
  return plain::Table(swish);
}

// The rows in blocks, as many as half a small second-level cache holds. They depend on the shape
// alone, and so do all sums.
struct Blocks {
  int64_t rows, channels, size, count;  // size: rows of all blocks but the last

  Blocks(int64_t rows, int64_t channels) : rows(rows), channels(channels) {
    size = std::max<int64_t>(16, 32768 / std::max<int64_t>(channels, 1) / 4 * 4);
    count = (rows + size - 1) / size;
  }
  int64_t Start(int64_t block) const { return block * size * channels; }
  int64_t Rows(int64_t block) const { return std::min(size, rows - block * size); }
};

}  // namespace

namespace supernet {

Normalisation::Normalisation(int64_t channels, int64_t stored, const float* mean_,
                             const float* variance, const float* scale, const float* bias,
                             float epsilon)
    : mean(stored), inverse(stored), factor(stored), shift(stored) {
  for (int64_t c = 0; c < channels; ++c) {
    mean[c] = mean_[c];
    inverse[c] = 1.0f / std::sqrt(variance[c] + epsilon);
    factor[c] = inverse[c] * scale[c];
    shift[c] = bias[c];
  }
}

void Moments(ffi::ThreadPool& pool, int64_t rows, int64_t channels, const float* x, float* mean,
             float* variance) {
  const Blocks blocks(rows, channels);
  const Kernels& kernels = Pick(false);
  const int64_t size = blocks.count * channels;
  std::vector<float> means(size), rests(size), squares(size);
  InParallel(pool, blocks.count, [&](int64_t b) {
    const int64_t at = b * channels;
    kernels.moments(x + blocks.Start(b), &means[at], &rests[at], &squares[at], blocks.Rows(b),
                    channels);
  });
  // The whole's sum of squares is the blocks', and that of their means around the whole's.
  std::vector<double> centre(channels), sum(channels);
  for (int64_t b = 0; b < blocks.count; ++b)
    for (int64_t c = 0, i = b * channels; c < channels; ++c, ++i)
      centre[c] += (double(means[i]) * blocks.Rows(b) + rests[i]) / rows;
  for (int64_t b = 0; b < blocks.count; ++b)
    for (int64_t c = 0, i = b * channels; c < channels; ++c, ++i) {
      const double away = means[i] - centre[c];
      sum[c] += squares[i] + away * (2.0 * rests[i] + blocks.Rows(b) * away);
    }
  for (int64_t c = 0; c < channels; ++c) {
    mean[c] = centre[c];
    variance[c] = sum[c] / rows;
  }
}

void Apply(ffi::ThreadPool& pool, int64_t rows, int64_t channels, const float* x, const Channel& of,
           float* y, bool swish) {
  const Blocks blocks(rows, channels);
  const Kernels& kernels = Pick(swish);
  InParallel(pool, blocks.count, [&](int64_t i) {
    const int64_t b = blocks.count - 1 - i;  // what was read last is in the cache still
    kernels.normalise(x + blocks.Start(b), of, y + blocks.Start(b), blocks.Rows(b), channels);
  });
}

void Sums(ffi::ThreadPool& pool, int64_t rows, int64_t channels, const float* g, const float* x,
          const Channel& of, double* total, double* along, bool swish) {
  const Blocks blocks(rows, channels);
  const Kernels& kernels = Pick(swish);
  std::vector<float> totals(blocks.count * channels), alongs(blocks.count * channels);
  InParallel(pool, blocks.count, [&](int64_t b) {
    kernels.sums(g + blocks.Start(b), x + blocks.Start(b), of, &totals[b * channels],
                 &alongs[b * channels], blocks.Rows(b), channels);
  });
  for (int64_t c = 0; c < channels; ++c) total[c] = along[c] = 0;
  for (int64_t b = 0; b < blocks.count; ++b)
    for (int64_t c = 0, i = b * channels; c < channels; ++c, ++i) {
      total[c] += totals[i];
      along[c] += alongs[i];
    }
}

Outcome::Outcome(int64_t rows, int64_t channels, const Normalisation& norm, const double* total,
                 const double* along, const float* of_mean, const float* of_variance,
                 float* dscale, float* dbias)
    : slope(norm.mean.size()), offset(norm.mean.size()) {
  for (int64_t c = 0; c < channels; ++c) {
    const float inverse = norm.inverse[c], factor = norm.factor[c];
    const double by_variance = -0.5 * factor * inverse * inverse * along[c];
    slope[c] = 2.0 * (of_variance[c] + by_variance) / rows;
    offset[c] = (of_mean[c] - factor * total[c]) / rows;
    dscale[c] = inverse * along[c];
    dbias[c] = total[c];
  }
}

void InputGradient(ffi::ThreadPool& pool, int64_t rows, int64_t channels, const float* g,
                   const float* x, const Channel& of, const float* slope, const float* offset,
                   float* dx, bool swish) {
  const Blocks blocks(rows, channels);
  const Kernels& kernels = Pick(swish);
  InParallel(pool, blocks.count, [&](int64_t i) {
    const int64_t b = blocks.count - 1 - i;  // what was read last is in the cache still
    const int64_t start = blocks.Start(b);
    kernels.gradient(g + start, x + start, of, slope, offset, dx + start,
                     blocks.Rows(b), channels);
  });
}

}  // namespace supernet

namespace {

template <class... Vectors>
ffi::Error Check(const Array& x, const Vectors&... vectors) {
  const auto shape = x.dimensions();
  const bool fits = shape.size() > 0 && ((int64_t(vectors.element_count()) == shape.back()) && ...);
  if (!fits) return ffi::Error::InvalidArgument("norm needs [..., C] and vectors of [C]");
  return ffi::Error::Success();
}

struct Sizes {
  int64_t rows = 1, channels;

  explicit Sizes(ffi::Span<const int64_t> shape) : channels(shape.back()) {
    for (size_t axis = 0; axis + 1 < shape.size(); ++axis) rows *= shape[axis];
  }
};

ffi::Error Normalise(ffi::ThreadPool pool, Array x, Array mean, Array variance, Array scale,
                     Array bias, Result y, bool swish, float epsilon) {
  if (auto error = Check(x, mean, variance, scale, bias); error.failure()) return error;
  const auto [rows, channels] = Sizes(x.dimensions());
  const supernet::Normalisation norm(channels, channels, mean.typed_data(), variance.typed_data(),
                                     scale.typed_data(), bias.typed_data(), epsilon);
  supernet::Apply(pool, rows, channels, x.typed_data(), norm.Of(), y->typed_data(), swish);
  return ffi::Error::Success();
}

ffi::Error BatchNorm(ffi::ThreadPool pool, Array x, Array scale, Array bias, Result y, Result mean,
                     Result variance, bool swish, float epsilon) {
  if (auto error = Check(x, scale, bias, *mean, *variance); error.failure()) return error;
  const auto [rows, channels] = Sizes(x.dimensions());
  supernet::Moments(pool, rows, channels, x.typed_data(), mean->typed_data(),
                    variance->typed_data());
  return Normalise(pool, x, *mean, *variance, scale, bias, y, swish, epsilon);
}

// Mean and biased variance alone: of a part of a batch whose other parts are elsewhere.
ffi::Error PartMoments(ffi::ThreadPool pool, Array x, Result mean, Result variance) {
  if (auto error = Check(x, *mean, *variance); error.failure()) return error;
  const auto [rows, channels] = Sizes(x.dimensions());
  supernet::Moments(pool, rows, channels, x.typed_data(), mean->typed_data(),
                    variance->typed_data());
  return ffi::Error::Success();
}

// Both sums of a part of a batch: the first half of the gradient below.
ffi::Error PartSums(ffi::ThreadPool pool, Array g, Array x, Array mean, Array factor, Array bias,
                    Result total, Result along, bool swish) {
  if (auto error = Check(x, mean, factor, bias, *total, *along); error.failure()) return error;
  const auto [rows, channels] = Sizes(x.dimensions());
  const Channel of{mean.typed_data(), factor.typed_data(), bias.typed_data()};
  std::vector<double> totals(channels), alongs(channels);
  supernet::Sums(pool, rows, channels, g.typed_data(), x.typed_data(), of, totals.data(),
                 alongs.data(), swish);
  std::copy(totals.begin(), totals.end(), total->typed_data());
  std::copy(alongs.begin(), alongs.end(), along->typed_data());
  return ffi::Error::Success();
}

// The gradient with respect to x, of a part of a batch: the second half.
ffi::Error PartGradient(ffi::ThreadPool pool, Array g, Array x, Array mean, Array factor,
                        Array bias, Array slope, Array offset, Result dx, bool swish) {
  if (auto error = Check(x, mean, factor, bias, slope, offset); error.failure()) return error;
  const auto [rows, channels] = Sizes(x.dimensions());
  const Channel of{mean.typed_data(), factor.typed_data(), bias.typed_data()};
  supernet::InputGradient(pool, rows, channels, g.typed_data(), x.typed_data(), of,
                          slope.typed_data(), offset.typed_data(), dx->typed_data(), swish);
  return ffi::Error::Success();
}

// From the gradients of y and of both moments to those of x, scale and bias; see batch_norm.py.
ffi::Error BatchNormGradient(ffi::ThreadPool pool, Array g, Array x, Array mean, Array variance,
                             Array scale, Array bias, Array of_mean, Array of_variance, Result dx,
                             Result dscale, Result dbias, bool swish, float epsilon) {
  if (auto error = Check(x, mean, variance, scale, bias, of_mean, of_variance, *dscale, *dbias);
      error.failure())
    return error;
  const auto [rows, channels] = Sizes(x.dimensions());
  const supernet::Normalisation norm(channels, channels, mean.typed_data(), variance.typed_data(),
                                     scale.typed_data(), bias.typed_data(), epsilon);
  std::vector<double> total(channels), along(channels);
  supernet::Sums(pool, rows, channels, g.typed_data(), x.typed_data(), norm.Of(), total.data(),
                 along.data(), swish);
  const supernet::Outcome outcome(rows, channels, norm, total.data(), along.data(),
                                  of_mean.typed_data(), of_variance.typed_data(),
                                  dscale->typed_data(), dbias->typed_data());
  supernet::InputGradient(pool, rows, channels, g.typed_data(), x.typed_data(), norm.Of(),
                          outcome.slope.data(), outcome.offset.data(), dx->typed_data(), swish);
  return ffi::Error::Success();
}

template <int n, class Binding>
auto Arrays(Binding binding) {
  if constexpr (n == 1) {
    return std::move(binding).template Arg<Array>();
  } else {
    return Arrays<n - 1>(std::move(binding).template Arg<Array>());
  }
}

// So many arrays, and the first result.
template <int n>
auto Binding() {
  return Arrays<n>(ffi::Ffi::Bind().Ctx<ffi::ThreadPool>()).template Ret<Array>();
}

template <class Binding>
auto Attributes(Binding binding) {
  return std::move(binding).template Attr<bool>("swish").template Attr<float>("epsilon");
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(NormBatch, BatchNorm,
                              Attributes(Binding<3>().Ret<Array>().Ret<Array>()));
XLA_FFI_DEFINE_HANDLER_SYMBOL(NormGiven, Normalise, Attributes(Binding<5>()));
XLA_FFI_DEFINE_HANDLER_SYMBOL(NormPartMoments, PartMoments, Binding<1>().Ret<Array>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(NormPartSums, PartSums,
                              Binding<5>().Ret<Array>().Attr<bool>("swish"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(NormPartGradient, PartGradient, Binding<7>().Attr<bool>("swish"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(NormBatchGradient, BatchNormGradient,
                              Attributes(Binding<8>().Ret<Array>().Ret<Array>()));
