// Depthwise convolution and its gradients for XLA on CPU, called through XLA's FFI.
//
// __init__.py says why, build.py how it is built. The same source is compiled for several
// instruction sets, and the one that the machine has is picked when it runs.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "common.h"

namespace {

struct Shape {
  int64_t batch, height, width, channels;  // of the input
  int64_t rows, columns;                   // of the output
  int64_t stride;
};

struct Kernels {
  void (*forward)(const float*, const float*, float*, int64_t, const Shape&);
  void (*input_gradient)(const float*, const float*, float*, int64_t, const Shape&);
  void (*kernel_gradient)(const float*, const float*, float*, const Shape&);
};

#define KERNELS "depthwise.inc"
#include "every_set.inc"

const Kernels& Pick(int64_t k) {
#ifdef SEVERAL_INSTRUCTION_SETS
  if (Available() == Instructions::kAvx512) return avx512::Table(k);
  if (Available() == Instructions::kAvx2) return avx2::Table(k);
#endif
  return plain::Table(k);
}

ffi::Error Check(ffi::Span<const int64_t> x, ffi::Span<const int64_t> w,
                 ffi::Span<const int64_t> y, int64_t stride, Shape* shape) {
  const bool known = x.size() == 4 && w.size() == 4 && y.size() == 4 && w[0] == w[1] &&
                     (w[0] == 1 || w[0] == 3 || w[0] == 5 || w[0] == 7) && stride > 0;
  if (!known) return ffi::Error::InvalidArgument("depthwise needs [B,H,W,C] and a kernel of 1 to 7");
  *shape = {x[0], x[1], x[2], x[3], y[1], y[2], stride};
  const bool fits = w[2] == 1 && w[3] == x[3] && y[0] == x[0] && y[3] == x[3] &&
                    y[1] == (x[1] + stride - 1) / stride && y[2] == (x[2] + stride - 1) / stride;
  if (!fits) return ffi::Error::InvalidArgument("depthwise: the shapes do not belong together");
  return ffi::Error::Success();
}

ffi::Error Forward(ffi::ThreadPool pool, Array x, Array w, Result y, int64_t stride) {
  Shape s;
  if (auto error = Check(x.dimensions(), w.dimensions(), y->dimensions(), stride, &s);
      error.failure())
    return error;
  const Kernels& kernels = Pick(w.dimensions()[0]);
  InParallel(pool, s.batch, [&](int64_t b) {
    for (int64_t row = 0; row < s.rows; ++row)
      kernels.forward(x.typed_data() + b * s.height * s.width * s.channels, w.typed_data(),
                      y->typed_data() + (b * s.rows + row) * s.columns * s.channels, row, s);
  });
  return ffi::Error::Success();
}

ffi::Error InputGradient(ffi::ThreadPool pool, Array g, Array w, Result dx, int64_t stride) {
  Shape s;
  if (auto error = Check(dx->dimensions(), w.dimensions(), g.dimensions(), stride, &s);
      error.failure())
    return error;
  const Kernels& kernels = Pick(w.dimensions()[0]);
  InParallel(pool, s.batch, [&](int64_t b) {
    for (int64_t row = 0; row < s.height; ++row)
      kernels.input_gradient(g.typed_data() + b * s.rows * s.columns * s.channels, w.typed_data(),
                             dx->typed_data() + (b * s.height + row) * s.width * s.channels, row,
                             s);
  });
  return ffi::Error::Success();
}

// Groups of images are fixed by their number alone, so that sums do not depend on the threads.
constexpr int64_t kGroups = 16;

ffi::Error KernelGradient(ffi::ThreadPool pool, Array x, Array g, Result dw, int64_t stride) {
  Shape s;
  if (auto error = Check(x.dimensions(), dw->dimensions(), g.dimensions(), stride, &s);
      error.failure())
    return error;
  const int64_t k = dw->dimensions()[0], size = k * k * s.channels;
  const Kernels& kernels = Pick(k);
  const int64_t groups = std::max<int64_t>(1, std::min(kGroups, s.batch));
  std::vector<float> sums(groups * size, 0.0f);
  InParallel(pool, groups, [&](int64_t group) {
    for (int64_t b = group; b < s.batch; b += groups)
      kernels.kernel_gradient(x.typed_data() + b * s.height * s.width * s.channels,
                              g.typed_data() + b * s.rows * s.columns * s.channels,
                              sums.data() + group * size, s);
  });
  float* out = dw->typed_data();
  std::memset(out, 0, size * sizeof(float));
  for (int64_t group = 0; group < groups; ++group)
    for (int64_t i = 0; i < size; ++i) out[i] += sums[group * size + i];
  return ffi::Error::Success();
}

// All three take two arrays and the stride, and give one array.
auto Binding() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .Arg<Array>()
      .Arg<Array>()
      .Ret<Array>()
      .Attr<int64_t>("stride");
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(DepthwiseForward, Forward, Binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(DepthwiseInputGradient, InputGradient, Binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(DepthwiseKernelGradient, KernelGradient, Binding());
