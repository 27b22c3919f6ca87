// Batch normalisation with or without swish, and its gradient, for XLA on CPU through its FFI.
//
// What is done once per channel is left to JAX (see normalise in __init__.py); here is what goes
// over the whole array: moments, output, the two sums of the backward pass, the input's gradient.

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <utility>
#include <vector>

#include "common.h"

namespace {

struct Channel {  // what is the same for all rows
  const float *mean, *factor, *shift;
};

struct Kernels {
  void (*moments)(const float*, float*, float*, float*, int64_t, int64_t);
  void (*normalise)(const float*, const Channel&, float*, int64_t, int64_t);
  void (*sums)(const float*, const float*, const Channel&, float*, float*, int64_t, int64_t);
  void (*gradient)(const float*, const float*, const Channel&, const float*, const float*, float*,
                   int64_t, int64_t);
};

namespace plain {
#include "norm.inc"
}

#ifdef SEVERAL_INSTRUCTION_SETS
#pragma GCC push_options
#pragma GCC target("avx2,fma")
namespace avx2 {
#include "norm.inc"
}
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx2,fma")
namespace avx512 {
#include "norm.inc"
}
#pragma GCC pop_options
#endif

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
  int64_t channels, rows, size, count;  // size: rows of all blocks but the last

  explicit Blocks(ffi::Span<const int64_t> shape) {
    channels = shape.back();
    rows = 1;
    for (size_t axis = 0; axis + 1 < shape.size(); ++axis) rows *= shape[axis];
    size = std::max<int64_t>(16, 32768 / std::max<int64_t>(channels, 1) / 4 * 4);
    count = (rows + size - 1) / size;
  }
  int64_t Start(int64_t block) const { return block * size * channels; }
  int64_t Rows(int64_t block) const { return std::min(size, rows - block * size); }
};

template <class... Vectors>
ffi::Error Check(const Array& x, const Vectors&... vectors) {
  const auto shape = x.dimensions();
  const bool fits = shape.size() > 0 && ((int64_t(vectors.element_count()) == shape.back()) && ...);
  if (!fits) return ffi::Error::InvalidArgument("norm needs [..., C] and vectors of [C]");
  return ffi::Error::Success();
}

ffi::Error Moments(ffi::ThreadPool pool, Array x, Result mean, Result variance) {
  if (auto error = Check(x, *mean, *variance); error.failure()) return error;
  const Blocks blocks(x.dimensions());
  const int64_t channels = blocks.channels;
  const Kernels& kernels = Pick(false);
  const int64_t size = blocks.count * channels;
  std::vector<float> means(size), rests(size), squares(size);
  InParallel(pool, blocks.count, [&](int64_t b) {
    const int64_t at = b * channels;
    kernels.moments(x.typed_data() + blocks.Start(b), &means[at], &rests[at], &squares[at],
                    blocks.Rows(b), channels);
  });
  // The whole's sum of squares is the blocks', and that of their means around the whole's.
  std::vector<double> centre(channels), sum(channels);
  for (int64_t b = 0; b < blocks.count; ++b)
    for (int64_t c = 0, i = b * channels; c < channels; ++c, ++i)
      centre[c] += (double(means[i]) * blocks.Rows(b) + rests[i]) / blocks.rows;
  for (int64_t b = 0; b < blocks.count; ++b)
    for (int64_t c = 0, i = b * channels; c < channels; ++c, ++i) {
      const double away = means[i] - centre[c];
      sum[c] += squares[i] + away * (2.0 * rests[i] + blocks.Rows(b) * away);
    }
  for (int64_t c = 0; c < channels; ++c) {
    mean->typed_data()[c] = centre[c];
    variance->typed_data()[c] = sum[c] / blocks.rows;
  }
  return ffi::Error::Success();
}

ffi::Error Normalise(ffi::ThreadPool pool, Array x, Array mean, Array factor, Array shift, Result y,
                     bool swish) {
  if (auto error = Check(x, mean, factor, shift); error.failure()) return error;
  const Blocks blocks(x.dimensions());
  const Channel of{mean.typed_data(), factor.typed_data(), shift.typed_data()};
  const Kernels& kernels = Pick(swish);
  InParallel(pool, blocks.count, [&](int64_t i) {
    const int64_t b = blocks.count - 1 - i;  // what was read last is in the cache still
    kernels.normalise(x.typed_data() + blocks.Start(b), of, y->typed_data() + blocks.Start(b),
                      blocks.Rows(b), blocks.channels);
  });
  return ffi::Error::Success();
}

ffi::Error Sums(ffi::ThreadPool pool, Array g, Array x, Array mean, Array factor, Array shift,
                Result total, Result along, bool swish) {
  if (auto error = Check(x, mean, factor, shift, *total, *along); error.failure()) return error;
  const Blocks blocks(x.dimensions());
  const int64_t channels = blocks.channels;
  const Channel of{mean.typed_data(), factor.typed_data(), shift.typed_data()};
  const Kernels& kernels = Pick(swish);
  std::vector<float> totals(blocks.count * channels), alongs(blocks.count * channels);
  InParallel(pool, blocks.count, [&](int64_t b) {
    kernels.sums(g.typed_data() + blocks.Start(b), x.typed_data() + blocks.Start(b), of,
                 &totals[b * channels], &alongs[b * channels], blocks.Rows(b), channels);
  });
  for (auto [parts, out] : {std::pair(&totals, &total), std::pair(&alongs, &along)}) {
    std::vector<double> sum(channels);
    for (int64_t b = 0; b < blocks.count; ++b)
      for (int64_t c = 0; c < channels; ++c) sum[c] += (*parts)[b * channels + c];
    for (int64_t c = 0; c < channels; ++c) (*out)->typed_data()[c] = sum[c];
  }
  return ffi::Error::Success();
}

ffi::Error Gradient(ffi::ThreadPool pool, Array g, Array x, Array mean, Array factor, Array shift,
                    Array slope, Array offset, Result dx, bool swish) {
  if (auto error = Check(x, mean, factor, shift, slope, offset); error.failure()) return error;
  const Blocks blocks(x.dimensions());
  const Channel of{mean.typed_data(), factor.typed_data(), shift.typed_data()};
  const Kernels& kernels = Pick(swish);
  InParallel(pool, blocks.count, [&](int64_t i) {
    const int64_t b = blocks.count - 1 - i;  // what was read last is in the cache still
    const int64_t start = blocks.Start(b);
    kernels.gradient(g.typed_data() + start, x.typed_data() + start, of, slope.typed_data(),
                     offset.typed_data(), dx->typed_data() + start, blocks.Rows(b),
                     blocks.channels);
  });
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

// So many arrays, and the result.
template <int n>
auto Binding() {
  return Arrays<n>(ffi::Ffi::Bind().Ctx<ffi::ThreadPool>()).template Ret<Array>();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(NormMoments, Moments, Binding<1>().Ret<Array>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(NormForward, Normalise, Binding<4>().Attr<bool>("swish"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(NormSums, Sums, Binding<5>().Ret<Array>().Attr<bool>("swish"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(NormInputGradient, Gradient, Binding<7>().Attr<bool>("swish"));
