// Depthwise convolution between two normalisations with swish, for XLA on CPU through its FFI.
//
// Between normalisations no array is written that is not needed later: what a normalisation gives is
// computed where the convolution reads it, in tiles that a cache holds, and computed again for the
// gradient. Work falls into pieces of images and vectors of channels.

#include "separable.h"

#include <array>
#include <type_traits>
#include <vector>

#include "norm.h"

namespace {

struct Kernels {
  int64_t lanes;
  void (*forward)(const Forward&, const Task&);
  void (*given)(const Forward&, const Task&);
  void (*gradient)(const Backward&, const Task&);
  void (*input_gradient)(const Backward&, const Task&);  // of the convolution alone
};

#define KERNELS "separable.inc"
#include "every_set.inc"

const Kernels& Pick() {
#ifdef SEVERAL_INSTRUCTION_SETS
  if (Available() == Instructions::kAvx512) return avx512::Table();
  if (Available() == Instructions::kAvx2) return avx2::Table();
#endif
  return plain::Table();
}

ffi::Error Check(ffi::Span<const int64_t> x, ffi::Span<const int64_t> w,
                 ffi::Span<const int64_t> y, int64_t stride, Shape* shape) {
  const bool known = x.size() == 4 && w.size() == 4 && y.size() == 4 && w[0] == w[1] &&
                     (w[0] == 1 || w[0] == 3 || w[0] == 5 || w[0] == 7) && stride > 0;
  if (!known) return ffi::Error::InvalidArgument("depthwise needs [B,H,W,C] and a kernel of 1 to 7");
  *shape = {x[0], x[1], x[2], x[3], y[1], y[2], w[0], stride};
  const bool fits = w[2] == 1 && w[3] == x[3] && y[0] == x[0] && y[3] == x[3] &&
                    y[1] == (x[1] + stride - 1) / stride && y[2] == (x[2] + stride - 1) / stride;
  if (!fits) return ffi::Error::InvalidArgument("depthwise: the shapes do not belong together");
  return ffi::Error::Success();
}

template <class... Vectors>
ffi::Error CheckVectors(const Shape& s, const Vectors&... vectors) {
  const bool fits = ((int64_t(vectors.element_count()) == s.channels) && ...);
  if (!fits) return ffi::Error::InvalidArgument("normalisation needs vectors of [C]");
  return ffi::Error::Success();
}

// What a call is made of, beside its arrays.
struct Plan {
  const Kernels& kernels;
  const Shape shape;
  const int64_t vectors, stored;  // of channels; channels for whole vectors
  const Tasks outputs, inputs;    // tasks of rows of the output, and of the input
  const float* taps;              // the kernel, packed: in order, or class by class

  Plan(ffi::ThreadPool& pool, const Shape& s, const float* kernel, bool by_class)
      : kernels(Pick()),
        shape(s),
        vectors((s.channels + kernels.lanes - 1) / kernels.lanes),
        stored(vectors * kernels.lanes),
        outputs(s.batch, 1, s.rows, vectors, Together()),
        inputs(s.batch, (s.batch + 15) / 16, s.height, vectors, Together()) {
    std::vector<int64_t> order;
    if (by_class) {
      for (int64_t a = 0; a < s.stride; ++a)
        for (int64_t b = 0; b < s.stride; ++b) {
          const Class down(a, s), across(b, s);
          for (int64_t i = 0; i < down.count; ++i)
            for (int64_t j = 0; j < across.count; ++j)
              order.push_back(down.Tap(i) * s.kernel + across.Tap(j));
        }
    } else {
      for (int64_t i = 0; i < s.kernel * s.kernel; ++i) order.push_back(i);
    }
    const int64_t count = s.kernel * s.kernel;
    float* const packed = Kept<0>(count * stored);
    InParallel(pool, vectors, [&](int64_t v) {
      const int64_t first = v * kernels.lanes, some = std::min(kernels.lanes, s.channels - first);
      for (int64_t i = 0; i < count; ++i) {
        float* to = packed + (v * count + i) * kernels.lanes;
        std::fill(to, to + kernels.lanes, 0.0f);
        std::copy_n(kernel + order[i] * s.channels + first, some, to);
      }
    });
    taps = packed;
  }
  // Vectors whose lines a cache holds, and the more of them the better: memory is read in order.
  int64_t Together() const {
    const int64_t line = (shape.width + shape.kernel) * kernels.lanes;
    const int64_t most = std::max<int64_t>(128 / kernels.lanes, (1 << 17) / (10 * line));
    const int64_t groups = (vectors + most - 1) / most;
    return (vectors + groups - 1) / std::max<int64_t>(1, groups);
  }
  int64_t OutputRows() const { return shape.batch * shape.rows * shape.columns; }
  int64_t InputRows() const { return shape.batch * shape.height * shape.width; }
};

template <class Job>
void Run(ffi::ThreadPool& pool, const Tasks& tasks, void (*kernel)(const Job&, const Task&),
         const Job& job) {
  InParallel(pool, tasks.count, [&](int64_t i) { kernel(job, tasks[i]); });
}

Norm Whole(const supernet::Normalisation& norm) {
  return {norm.mean.data(), norm.factor.data(), norm.shift.data()};
}

// Adds up a kernel's gradient, [sums][k * k][stored].
void AddUp(ffi::ThreadPool& pool, const float* parts, const Plan& plan, float* out) {
  const int64_t taps = plan.shape.kernel * plan.shape.kernel, channels = plan.shape.channels;
  InParallel(pool, taps, [&](int64_t tap) {
    float* sums = out + tap * channels;
    std::fill(sums, sums + channels, 0.0f);
    for (int64_t i = 0; i < plan.inputs.sums; ++i) {
      const float* part = parts + (i * taps + tap) * plan.stored;
      for (int64_t c = 0; c < channels; ++c) sums[c] += part[c];
    }
  });
}

ffi::Error Given(ffi::ThreadPool pool, Array x, Array mean1, Array variance1, Array scale1,
                 Array bias1, Array w, Array mean2, Array variance2, Array scale2, Array bias2,
                 Result y, int64_t stride, float epsilon) {
  Shape s;
  if (auto error = Check(x.dimensions(), w.dimensions(), y->dimensions(), stride, &s);
      error.failure())
    return error;
  if (auto error = CheckVectors(s, mean1, variance1, scale1, bias1, mean2, variance2, scale2, bias2);
      error.failure())
    return error;
  const Plan plan(pool, s, w.typed_data(), false);
  const supernet::Normalisation before(s.channels, plan.stored, mean1.typed_data(),
                                       variance1.typed_data(), scale1.typed_data(),
                                       bias1.typed_data(), epsilon);
  const supernet::Normalisation after(s.channels, plan.stored, mean2.typed_data(),
                                      variance2.typed_data(), scale2.typed_data(),
                                      bias2.typed_data(), epsilon);
  const Forward job{s, x.typed_data(), plan.taps, y->typed_data(), Whole(before),
                    Whole(after)};
  Run(pool, plan.outputs, plan.kernels.given, job);
  return ffi::Error::Success();
}

// y is what the convolution gives, z that after the second normalisation; one array if nobody asks
// for y.
ffi::Error KeepingBatch(ffi::ThreadPool pool, Array x, Array scale1, Array bias1, Array w,
                        Array scale2, Array bias2, Result z, Result y, Result mean1,
                        Result variance1, Result mean2, Result variance2, int64_t stride,
                        float epsilon) {
  Shape s;
  if (auto error = Check(x.dimensions(), w.dimensions(), y->dimensions(), stride, &s);
      error.failure())
    return error;
  if (auto error = CheckVectors(s, scale1, bias1, scale2, bias2, *mean1, *variance1, *mean2,
                                *variance2);
      error.failure())
    return error;
  const Plan plan(pool, s, w.typed_data(), false);
  supernet::Moments(pool, plan.InputRows(), s.channels, x.typed_data(), mean1->typed_data(),
                    variance1->typed_data());
  const supernet::Normalisation before(s.channels, plan.stored, mean1->typed_data(),
                                       variance1->typed_data(), scale1.typed_data(),
                                       bias1.typed_data(), epsilon);
  const Tasks& tasks = plan.outputs;
  std::vector<float> means(tasks.sums * plan.stored), squares(tasks.sums * plan.stored);
  const Forward job{s, x.typed_data(), plan.taps, y->typed_data(), Whole(before), {},
                    means.data(), squares.data(), plan.stored};
  Run(pool, tasks, plan.kernels.forward, job);
  // The whole's sum of squares is the tasks', and that of their means around the whole's.
  std::vector<double> centre(s.channels), square(s.channels);
  for (int64_t i = 0; i < tasks.sums; ++i) {
    const double share = double(tasks[i].Rows() * s.columns) / plan.OutputRows();
    const float* mean = means.data() + i * plan.stored;
    for (int64_t c = 0; c < s.channels; ++c) centre[c] += mean[c] * share;
  }
  for (int64_t i = 0; i < tasks.sums; ++i) {
    const double count = tasks[i].Rows() * s.columns;
    const float *mean = means.data() + i * plan.stored, *own = squares.data() + i * plan.stored;
    for (int64_t c = 0; c < s.channels; ++c) {
      const double away = mean[c] - centre[c];
      square[c] += own[c] + count * away * away;
    }
  }
  for (int64_t c = 0; c < s.channels; ++c) {
    mean2->typed_data()[c] = centre[c];
    variance2->typed_data()[c] = square[c] / plan.OutputRows();
  }
  const supernet::Normalisation after(s.channels, s.channels, mean2->typed_data(),
                                      variance2->typed_data(), scale2.typed_data(),
                                      bias2.typed_data(), epsilon);
  supernet::Apply(pool, plan.OutputRows(), s.channels, y->typed_data(), after.Of(),
                  z->typed_data(), true);
  return ffi::Error::Success();
}

ffi::Error Batch(ffi::ThreadPool pool, Array x, Array scale1, Array bias1, Array w, Array scale2,
                 Array bias2, Result z, Result mean1, Result variance1, Result mean2,
                 Result variance2, int64_t stride, float epsilon) {
  return KeepingBatch(pool, x, scale1, bias1, w, scale2, bias2, z, z, mean1, variance1, mean2,
                      variance2, stride, epsilon);
}

ffi::Error Gradient(ffi::ThreadPool pool, Array g, Array x, Array y, Array mean1, Array variance1,
                    Array scale1, Array bias1, Array w, Array mean2, Array variance2, Array scale2,
                    Array bias2, Array of_mean1, Array of_variance1, Array of_mean2,
                    Array of_variance2, Result dx, Result dscale1, Result dbias1, Result dw,
                    Result dscale2, Result dbias2, int64_t stride, float epsilon) {
  Shape s;
  if (auto error = Check(x.dimensions(), w.dimensions(), y.dimensions(), stride, &s);
      error.failure())
    return error;
  if (auto error = CheckVectors(s, mean1, variance1, scale1, bias1, mean2, variance2, scale2, bias2,
                                of_mean1, of_variance1, of_mean2, of_variance2, *dscale1, *dbias1,
                                *dscale2, *dbias2);
      error.failure())
    return error;
  const Plan plan(pool, s, w.typed_data(), true);
  const supernet::Normalisation before(s.channels, plan.stored, mean1.typed_data(),
                                       variance1.typed_data(), scale1.typed_data(),
                                       bias1.typed_data(), epsilon);
  const supernet::Normalisation after(s.channels, plan.stored, mean2.typed_data(),
                                      variance2.typed_data(), scale2.typed_data(),
                                      bias2.typed_data(), epsilon);
  std::vector<double> total(s.channels), along(s.channels);
  supernet::Sums(pool, plan.OutputRows(), s.channels, g.typed_data(), y.typed_data(), after.Of(),
                 total.data(), along.data(), true);
  const supernet::Outcome second(plan.OutputRows(), s.channels, after, total.data(), along.data(),
                                 of_mean2.typed_data(), of_variance2.typed_data(),
                                 dscale2->typed_data(), dbias2->typed_data());
  const int64_t sums = plan.inputs.sums;
  float* const parts = Kept<1>(sums * s.kernel * s.kernel * plan.stored);
  std::vector<float> totals(sums * plan.stored), alongs(sums * plan.stored);
  const Backward job{s, g.typed_data(), x.typed_data(), y.typed_data(), plan.taps,
                     dx->typed_data(), Whole(before), Whole(after), second.slope.data(),
                     second.offset.data(), parts, totals.data(), alongs.data(), plan.stored};
  Run(pool, plan.inputs, plan.kernels.gradient, job);
  AddUp(pool, parts, plan, dw->typed_data());
  std::fill(total.begin(), total.end(), 0);
  std::fill(along.begin(), along.end(), 0);
  for (int64_t i = 0; i < sums; ++i)
    for (int64_t c = 0; c < s.channels; ++c) {
      total[c] += totals[i * plan.stored + c];
      along[c] += alongs[i * plan.stored + c];
    }
  const supernet::Outcome first(plan.InputRows(), s.channels, before, total.data(), along.data(),
                                of_mean1.typed_data(), of_variance1.typed_data(),
                                dscale1->typed_data(), dbias1->typed_data());
  supernet::InputGradient(pool, plan.InputRows(), s.channels, dx->typed_data(), x.typed_data(),
                          before.Of(), first.slope.data(), first.offset.data(), dx->typed_data(), false);
  return ffi::Error::Success();
}

}  // namespace

namespace supernet {

void StridedInputGradient(ffi::ThreadPool& pool, int64_t batch, int64_t height, int64_t width,
                          int64_t channels, int64_t k, int64_t stride, const float* g,
                          const float* kernel, float* dx) {
  const Shape s{batch, height, width, channels, (height + stride - 1) / stride,
                (width + stride - 1) / stride, k, stride};
  const Plan plan(pool, s, kernel, true);
  const Backward job{s, g, nullptr, nullptr, plan.taps, dx};
  Run(pool, plan.inputs, plan.kernels.input_gradient, job);
}

}  // namespace supernet

namespace {

template <int arrays, int results, class Binding>
auto Extend(Binding binding) {
  if constexpr (arrays > 0) {
    return Extend<arrays - 1, results>(std::move(binding).template Arg<Array>());
  } else if constexpr (results > 1) {
    return Extend<0, results - 1>(std::move(binding).template Ret<Array>());
  } else {
    return std::move(binding).template Ret<Array>();
  }
}

template <int arrays, int results>
auto Binding() {
  return Extend<arrays, results>(ffi::Ffi::Bind().Ctx<ffi::ThreadPool>())
      .template Attr<int64_t>("stride");
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(SeparableGiven, Given, (Binding<10, 1>().Attr<float>("epsilon")));
XLA_FFI_DEFINE_HANDLER_SYMBOL(SeparableBatch, Batch, (Binding<6, 5>().Attr<float>("epsilon")));
XLA_FFI_DEFINE_HANDLER_SYMBOL(SeparableKeepingBatch, KeepingBatch,
                              (Binding<6, 6>().Attr<float>("epsilon")));
XLA_FFI_DEFINE_HANDLER_SYMBOL(SeparableGradient, Gradient, (Binding<16, 6>().Attr<float>("epsilon")));
