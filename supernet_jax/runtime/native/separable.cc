// Depthwise convolution between two normalisations with swish, for XLA on CPU through its FFI.
//
// What the first normalisation gives is computed where the convolution reads it, in tiles that a
// cache holds, and computed again for the gradient. Where no gradient is wanted, the whole of a
// bottleneck is one call: the product with a matrix that the first normalisation reads is computed
// there, too, and never written, and the rows that the next product reads are made for it in a cache.
// Work falls into pieces of images and vectors of channels. Vectors that are called "stored" are
// padded with zeros to a whole number of lanes.

#include <array>
#include <numeric>
#include <type_traits>
#include <vector>

#include "norm.h"

namespace {

using supernet::Channel;

struct Shape {
  int64_t batch, height, width, channels;  // of the input
  int64_t rows, columns;                   // of the output
  int64_t kernel, stride;

  int64_t Margin() const { return kernel / 2; }
};

// Some rows of some images, for some vectors of channels.
struct Task {
  int64_t sums;                     // where its sums go
  int64_t image, images, from, to;  // rows from, to
  int64_t first_vector, vectors;
};

// All of it in parts that depend on the shape alone, and so do all sums.
struct Tasks {
  int64_t batch, images, rows, parts, vectors, together, sums, count;

  // images: of a task; rows: of each; vectors: of channels, of which some are handled together.
  Tasks(int64_t batch, int64_t images, int64_t rows, int64_t vectors, int64_t together)
      : batch(batch), images(images), rows(rows), vectors(vectors), together(together) {
    const int64_t apart = (batch + images - 1) / images;
    parts = std::max<int64_t>(1, std::min(rows / 8, 8 / std::max<int64_t>(1, apart)));
    sums = apart * parts;
    count = sums * ((vectors + together - 1) / together);
  }
  Task operator[](int64_t i) const {
    const int64_t group = i / sums * together, sum = i % sums;
    const int64_t image = sum / parts * images, part = sum % parts;
    return {sum, image, std::min(images, batch - image), rows * part / parts,
            rows * (part + 1) / parts, group, std::min(together, vectors - group)};
  }
};

// The taps that meet the pixels of a class along one axis: with a stride of 2, every other tap meets
// every other pixel. The gradient's lines have `before` zeros before the image.
struct Class {
  int64_t phase, count;  // taps phase, phase + stride, ..., last one first
  int64_t stride, margin, before;

  Class(int64_t phase, const Shape& s)
      : phase(phase),
        count(phase < s.kernel ? (s.kernel - phase + s.stride - 1) / s.stride : 0),
        stride(s.stride),
        margin(s.Margin()),
        before(s.Margin() / s.stride) {}
  // The first of its pixels from `from` on.
  int64_t First(int64_t from) const {
    return from + ((phase - from - margin) % stride + stride) % stride;
  }
  // Where the first of its taps lies for a pixel.
  int64_t Place(int64_t pixel) const {
    return (pixel + margin - phase) / stride - (count - 1) + before;
  }
  int64_t Tap(int64_t i) const { return phase + stride * (count - 1 - i); }
};

// A matrix, packed [vectors][inputs][lanes].
struct Product {
  const float* weights = nullptr;
  int64_t inputs = 0;
};

// Of what is written, sums of differences from some centre, and of squared differences from the mean:
// [sums][stored], of the rows of each task. Empty where nobody asks.
struct Spread {
  float *centres = nullptr, *sums = nullptr, *squares = nullptr;
  int64_t stored = 0;
};

struct Forward {
  Shape shape;
  const float *x, *taps;  // taps: packed [vectors][k * k][lanes]
  float* y;
  Channel before, after;  // stored; `after` where it is to be applied, too
  Spread spread;
  Product product;  // of x, where that is to be computed, too
};

// What follows the convolution of a bottleneck.
struct Projection {
  int64_t pixels;         // of an image
  bool normed;            // whether the pixels are normalised already,
  Channel norm;           // stored, or by this; with swish
  const float* gates;     // [images][channels] of squeeze-and-excite, or nullptr
  Product matrix;         // of which there are products
  int64_t outputs;        // columns of the matrix
  bool given;             // whether the last normalisation is by given statistics,
  Channel last;           // stored, which are these
};

struct Backward {
  Shape shape;
  const float *g, *x, *y, *taps;  // g: the gradient of the output; y: before its normalisation;
                                  // taps: packed, class by class
  float* dx;                      // the gradient of what goes into the first swish
  Channel before, after;
  const float *slope, *offset;  // stored, of an Outcome of the second normalisation
  float* dtaps;                 // [sums][k * k][stored]
  float *totals, *alongs;       // [sums][stored]: of dx, and of its product with x - mean
  int64_t stored;
};

// Memory of the thread that lasts between calls, one for each use: fresh memory costs as much as
// what is done with it.
template <int kUse>
float* Kept(int64_t size) {
  static thread_local std::vector<float> kept;
  if (int64_t(kept.size()) < size) kept.resize(size);
  return kept.data();
}

// Rows of a projection that are made at a time, for a cache to hold.
int64_t RowsMade(int64_t channels) {
  return std::max<int64_t>(16, (1 << 15) / channels / 16 * 16);
}

struct Kernels {
  int64_t lanes;
  void (*pack)(const float*, int64_t, int64_t, float*);
  void (*forward)(const Forward&, const Task&);
  void (*product)(const Forward&, const Task&);  // and forward
  void (*covariance)(const float*, int64_t, const float*, int64_t, double*);
  void (*variance)(const Product&, int64_t, const double*, double*);
  void (*squeeze)(const Projection&, const float*, int64_t, float*);
  void (*multiply)(const float*, int64_t, const Product&, int64_t, int64_t, int64_t, float*);
  void (*project)(const Projection&, const float*, int64_t, int64_t, float*);
  void (*gradient)(const Backward&, const Task&);
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

ffi::Error Check(ffi::Span<const int64_t> x, int64_t channels, ffi::Span<const int64_t> w,
                 ffi::Span<const int64_t> y, int64_t stride, Shape* shape) {
  const bool known = x.size() == 4 && w.size() == 4 && y.size() == 4 && w[0] == w[1] &&
                     (w[0] == 1 || w[0] == 3 || w[0] == 5 || w[0] == 7) && stride > 0;
  if (!known) return ffi::Error::InvalidArgument("separable needs [B,H,W,C] and a kernel of 1 to 7");
  *shape = {x[0], x[1], x[2], channels, y[1], y[2], w[0], stride};
  const bool fits = w[2] == 1 && w[3] == channels && y[0] == x[0] && y[3] == channels &&
                    y[1] == (x[1] + stride - 1) / stride && y[2] == (x[2] + stride - 1) / stride;
  if (!fits) return ffi::Error::InvalidArgument("separable: the shapes do not belong together");
  const bool empty = x[0] * x[1] * x[2] * x[3] * channels == 0;
  if (empty) return ffi::Error::InvalidArgument("separable: an empty batch");
  return ffi::Error::Success();
}

ffi::Error CheckImage(const Array& x, const Array& w, const Array& y, int64_t stride,
                      Shape* shape) {
  const auto image = x.dimensions();
  const int64_t channels = image.size() == 4 ? image[3] : 0;
  return Check(image, channels, w.dimensions(), y.dimensions(), stride, shape);
}

// Of a convolution that reads the product of x with a matrix.
ffi::Error CheckProduct(const Array& x, const Array& matrix, const Array& w, const Array& y,
                        int64_t stride, Shape* shape) {
  const auto wide = x.dimensions(), sizes = matrix.dimensions();
  if (wide.size() != 4 || sizes.size() != 2 || sizes[0] != wide[3])
    return ffi::Error::InvalidArgument("bottleneck needs [B,H,W,I] and a matrix [I,C]");
  return Check(wide, sizes[1], w.dimensions(), y.dimensions(), stride, shape);
}

template <class... Vectors>
ffi::Error CheckVectors(const Shape& s, const Vectors&... vectors) {
  const bool fits = ((int64_t(vectors.element_count()) == s.channels) && ...);
  if (!fits) return ffi::Error::InvalidArgument("normalisation needs vectors of [C]");
  return ffi::Error::Success();
}

// Packs rows of channels in some order, by vectors of channels: [vectors][rows][lanes].
void Pack(ffi::ThreadPool& pool, const Kernels& kernels, int64_t channels,
          const std::vector<int64_t>& order, const float* rows, float* packed) {
  constexpr int64_t kTogether = 64;
  const int64_t count = order.size();
  InParallel(pool, (count + kTogether - 1) / kTogether, [&](int64_t i) {
    const int64_t to = std::min(count, (i + 1) * kTogether);
    for (int64_t row = i * kTogether; row < to; ++row)
      kernels.pack(rows + order[row] * channels, channels, count, packed + row * kernels.lanes);
  });
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
    float* const packed = Kept<0>(s.kernel * s.kernel * stored);
    Pack(pool, kernels, s.channels, order, kernel, packed);
    taps = packed;
  }
  // Vectors whose lines a cache holds, and the more of them the better: memory is read in order.
  int64_t Together() const {
    const int64_t line = (shape.width + shape.kernel) * kernels.lanes;
    const int64_t most = std::max<int64_t>(128 / kernels.lanes, (1 << 17) / (10 * line));
    const int64_t groups = (vectors + most - 1) / most;
    return (vectors + groups - 1) / groups;
  }
  int64_t OutputRows() const { return shape.batch * shape.rows * shape.columns; }
  int64_t InputRows() const { return shape.batch * shape.height * shape.width; }
};

template <class Job>
void Run(ffi::ThreadPool& pool, const Tasks& tasks, void (*kernel)(const Job&, const Task&),
         const Job& job) {
  InParallel(pool, tasks.count, [&](int64_t i) { kernel(job, tasks[i]); });
}

// A Spread of zeros, and its memory.
struct SpreadMemory {
  std::vector<float> memory;
  Spread spread;

  explicit SpreadMemory(const Plan& plan) : memory(3 * plan.outputs.sums * plan.stored) {
    const int64_t size = plan.outputs.sums * plan.stored;
    spread = {&memory[0], &memory[size], &memory[2 * size], plan.stored};
  }
};

// Computes the convolution, and the mean and biased variance of what it gives.
void RunWithMoments(ffi::ThreadPool& pool, const Plan& plan,
                    void (*kernel)(const Forward&, const Task&), Forward job, float* mean,
                    float* variance) {
  const int64_t count = plan.outputs.sums, channels = plan.shape.channels;
  const SpreadMemory memory(plan);
  job.spread = memory.spread;
  Run(pool, plan.outputs, kernel, job);
  const auto [centres, sums, squares, stored] = memory.spread;
  // The whole's sum of squares is the parts', and that of their means around the whole's.
  std::vector<double> means(count * channels), centre(channels), total(channels);
  for (int64_t i = 0; i < count; ++i) {
    const Task task = plan.outputs[i];
    const double rows = (task.to - task.from) * task.images * plan.shape.columns;
    for (int64_t c = 0; c < channels; ++c) {
      means[i * channels + c] = centres[i * stored + c] + sums[i * stored + c] / rows;
      centre[c] += means[i * channels + c] * rows / plan.OutputRows();
      total[c] += squares[i * stored + c];
    }
  }
  for (int64_t i = 0; i < count; ++i) {
    const Task task = plan.outputs[i];
    const double rows = (task.to - task.from) * task.images * plan.shape.columns;
    for (int64_t c = 0; c < channels; ++c) {
      const double away = means[i * channels + c] - centre[c];
      total[c] += rows * away * away;
    }
  }
  for (int64_t c = 0; c < channels; ++c) {
    mean[c] = centre[c];
    variance[c] = total[c] / plan.OutputRows();
  }
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

// A matrix [inputs, channels], packed.
template <int kUse>
Product Packed(ffi::ThreadPool& pool, const Kernels& kernels, const Array& matrix) {
  const int64_t inputs = matrix.dimensions()[0], channels = matrix.dimensions()[1];
  const int64_t lanes = kernels.lanes;
  std::vector<int64_t> order(inputs);
  std::iota(order.begin(), order.end(), 0);
  float* const packed = Kept<kUse>(inputs * ((channels + lanes - 1) / lanes * lanes));
  Pack(pool, kernels, channels, order, matrix.typed_data(), packed);
  return {packed, inputs};
}

// Mean and biased variance of the product of x with a matrix, of which nothing is computed: they
// follow from the mean and the covariance of x, which has fewer channels.
void ProductMoments(ffi::ThreadPool& pool, const Plan& plan, const float* x,
                    const Product& product, float* mean, float* variance) {
  const int64_t rows = plan.InputRows(), lanes = plan.kernels.lanes, inputs = product.inputs;
  const int64_t size = inputs * ((inputs + lanes - 1) / lanes * lanes);
  std::vector<float> centre(2 * inputs);
  supernet::Moments(pool, rows, inputs, x, centre.data(), centre.data() + inputs);
  const int64_t together = std::max<int64_t>(1024, (rows + 31) / 32);  // of the shape alone
  const int64_t parts = (rows + together - 1) / together;
  std::vector<double> sums(parts * size);
  InParallel(pool, parts, [&](int64_t i) {
    plan.kernels.covariance(x + i * together * inputs, std::min(together, rows - i * together),
                            centre.data(), inputs, &sums[i * size]);
  });
  InParallel(pool, inputs, [&](int64_t row) {
    const int64_t from = row * (size / inputs), to = from + size / inputs;
    for (int64_t part = 1; part < parts; ++part)
      for (int64_t i = from; i < to; ++i) sums[i] += sums[part * size + i];
  });
  InParallel(pool, plan.vectors, [&](int64_t v) {
    double spread[16];
    plan.kernels.variance(product, v, sums.data(), spread);
    const int64_t first = v * lanes;
    for (int64_t l = 0; l < std::min(lanes, plan.shape.channels - first); ++l) {
      double sum = 0;
      for (int64_t i = 0; i < inputs; ++i)
        sum += double(centre[i]) * product.weights[(v * inputs + i) * lanes + l];
      mean[first + l] = sum;
      variance[first + l] = spread[l] < 0 ? 0 : spread[l] / rows;  // what is no number stays so
    }
  });
}

// y is what the convolution gives, z what the second normalisation makes of it.
ffi::Error Batch(ffi::ThreadPool pool, Array x, Array scale1, Array bias1, Array w, Array scale2,
                 Array bias2, Result z, Result y, Result mean1, Result variance1, Result mean2,
                 Result variance2, int64_t stride, float epsilon) {
  Shape s;
  if (auto error = CheckImage(x, w, *y, stride, &s); error.failure()) return error;
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
  RunWithMoments(pool, plan, plan.kernels.forward,
                 Forward{s, x.typed_data(), plan.taps, y->typed_data(), before.Of(), {}, {}, {}},
                 mean2->typed_data(), variance2->typed_data());
  const supernet::Normalisation after(s.channels, s.channels, mean2->typed_data(),
                                      variance2->typed_data(), scale2.typed_data(),
                                      bias2.typed_data(), epsilon);
  supernet::Apply(pool, plan.OutputRows(), s.channels, y->typed_data(), after.Of(),
                  z->typed_data(), true);
  return ffi::Error::Success();
}

// A bottleneck: what is before the convolution, the convolution itself, and what is after it.
struct Bottleneck {
  ffi::ThreadPool& pool;
  const Plan plan;
  const Array &x, &reduce, &reduce_bias, &excite, &excite_bias;
  const Product expand, project;
  const int64_t pixels, outputs;  // pixels of an image of the output

  Bottleneck(ffi::ThreadPool& pool, const Shape& s, const Array& x, const Array& expand,
             const Array& w, const Array& reduce, const Array& reduce_bias, const Array& excite,
             const Array& excite_bias, const Array& project)
      : pool(pool),
        plan(pool, s, w.typed_data(), false),
        x(x),
        reduce(reduce),
        reduce_bias(reduce_bias),
        excite(excite),
        excite_bias(excite_bias),
        expand(Packed<3>(pool, plan.kernels, expand)),
        project(Packed<6>(pool, plan.kernels, project)),
        pixels(s.rows * s.columns),
        outputs(project.dimensions()[1]) {}

  int64_t Stored() const {
    const int64_t lanes = plan.kernels.lanes;
    return (outputs + lanes - 1) / lanes * lanes;
  }
  bool Excites() const { return reduce_bias.element_count() > 0; }
  // Squeeze-and-excite is a product of all images with large matrices; and each thread needs some.
  bool CanGoByImage() const {
    return !Excites() && plan.outputs.parts == 1 && plan.shape.batch >= pool.num_threads();
  }
  Forward Convolution(const supernet::Normalisation& before, float* y) const {
    return {plan.shape, x.typed_data(), plan.taps, y, before.Of(), {}, {}, expand};
  }

  // Rows times a matrix, plus a bias, through an activation.
  template <class F>
  void Dense(const std::vector<float>& rows, const Array& matrix, const Array& bias,
             const F& activation, std::vector<float>& out) const {
    const Product packed = Packed<7>(pool, plan.kernels, matrix);
    const int64_t width = bias.element_count(), vectors = (width - 1) / plan.kernels.lanes + 1;
    constexpr int64_t kTogether = 3;
    InParallel(pool, (vectors + kTogether - 1) / kTogether, [&](int64_t i) {
      const int64_t from = i * kTogether;
      plan.kernels.multiply(rows.data(), plan.shape.batch, packed, width, from,
                            std::min(kTogether, vectors - from), out.data());
    });
    for (int64_t i = 0; i < plan.shape.batch; ++i)
      for (int64_t c = 0; c < width; ++c)
        out[i * width + c] = activation(out[i * width + c] + bias.typed_data()[c]);
  }

  // Computes the convolution and what `after` makes of it, [B,H,W,C], and its means of each image.
  std::vector<float> RunWithMeans(Forward job, const Channel& after) const {
    const int64_t channels = plan.shape.channels, parts = plan.outputs.parts;
    const SpreadMemory memory(plan);
    job.after = after;
    job.spread = memory.spread;
    Run(pool, plan.outputs, plan.kernels.product, job);
    std::vector<float> means(plan.shape.batch * channels);
    const auto [centres, sums, squares, stored] = memory.spread;
    for (int64_t i = 0; i < plan.outputs.sums; ++i) {
      const Task task = plan.outputs[i];
      const float share = float(task.to - task.from) / plan.shape.rows;
      for (int64_t c = 0; c < channels; ++c)
        means[i / parts * channels + c] +=
            share * centres[i * stored + c] + sums[i * stored + c] / pixels;
    }
    return means;
  }

  // Means of each image of what is made of y.
  std::vector<float> Means(const Projection& job, const float* y) const {
    const int64_t channels = plan.shape.channels;
    std::vector<float> means(plan.shape.batch * channels);
    InParallel(pool, plan.shape.batch, [&](int64_t i) {
      plan.kernels.squeeze(job, y + i * pixels * channels, pixels, &means[i * channels]);
    });
    return means;
  }

  // What squeeze-and-excite multiplies the channels of each image by, from their means.
  std::vector<float> Gates(std::vector<float> means) const {
    std::vector<float> hidden(plan.shape.batch * reduce_bias.element_count());
    Dense(means, reduce, reduce_bias, [](float z) { return z < 0 ? 0 : z; }, hidden);
    const auto hard_sigmoid = [](float z) {
      z = (z + 3) / 6;
      return z < 0 ? 0 : z > 1 ? 1 : z;
    };
    Dense(hidden, excite, excite_bias, hard_sigmoid, means);
    return means;
  }

  // From what the convolution gives for all images to the output.
  void Project(const Projection& job, const float* y, float* out) const {
    const int64_t channels = plan.shape.channels, all = plan.OutputRows();
    const int64_t together = RowsMade(channels);
    InParallel(pool, (all + together - 1) / together, [&](int64_t i) {
      const int64_t from = i * together;
      plan.kernels.project(job, y + from * channels, from, std::min(together, all - from),
                           out + from * outputs);
    });
  }

  // The same with the convolution, one image after the other, so that a cache holds what it gives.
  void ByImage(const Forward& convolution, const Projection& job, float* out) const {
    const Shape& s = plan.shape;
    InParallel(pool, s.batch, [&](int64_t image) {
      Forward own = convolution;
      own.x += image * s.height * s.width * expand.inputs;
      own.y = Kept<8>(pixels * s.channels);
      for (int64_t i = image; i < plan.outputs.count; i += plan.outputs.sums) {
        Task task = plan.outputs[i];
        task.image = 0;
        plan.kernels.product(own, task);
      }
      plan.kernels.project(job, own.y, image * pixels, pixels, out + image * pixels * outputs);
    });
  }
};

ffi::Error CheckBottleneck(const Shape& s, const Array& reduce, const Array& reduce_bias,
                           const Array& excite, const Array& excite_bias, const Array& project,
                           const Array& out) {
  const int64_t hidden = reduce_bias.element_count();
  const auto is = [](const Array& matrix, int64_t rows, int64_t columns) {
    const auto sizes = matrix.dimensions();
    return sizes.size() == 2 && sizes[0] == rows && sizes[1] == columns;
  };
  const auto image = out.dimensions();
  const bool fits = image.size() == 4 && image[3] > 0 && image[0] == s.batch &&
                    image[1] == s.rows && image[2] == s.columns &&
                    is(project, s.channels, image[3]) && is(reduce, s.channels, hidden) &&
                    is(excite, hidden, s.channels);
  if (!fits) return ffi::Error::InvalidArgument("bottleneck: the shapes do not belong together");
  return CheckVectors(s, excite_bias);
}

template <class... Vectors>
ffi::Error CheckLast(const Array& project, const Vectors&... vectors) {
  const bool fits = ((vectors.dimensions().size() == 1 &&
                      vectors.dimensions()[0] == project.dimensions()[1]) && ...);
  if (!fits)
    return ffi::Error::InvalidArgument("the last normalisation needs vectors of the output's channels");
  return ffi::Error::Success();
}

// y is memory for all images, where they do not go one by one.
ffi::Error BottleneckByGiven(ffi::ThreadPool pool, Array x, Array expand, Array mean1,
                             Array variance1, Array scale1, Array bias1, Array w, Array mean2,
                             Array variance2, Array scale2, Array bias2, Array reduce,
                             Array reduce_bias, Array excite, Array excite_bias, Array project,
                             Array mean3, Array variance3, Array scale3, Array bias3, Result out,
                             Result y, int64_t stride, float epsilon) {
  Shape s;
  if (auto error = CheckProduct(x, expand, w, *y, stride, &s); error.failure()) return error;
  if (auto error = CheckVectors(s, mean1, variance1, scale1, bias1, mean2, variance2, scale2,
                                bias2);
      error.failure())
    return error;
  if (auto error = CheckBottleneck(s, reduce, reduce_bias, excite, excite_bias, project, *out);
      error.failure())
    return error;
  if (auto error = CheckLast(project, mean3, variance3, scale3, bias3); error.failure())
    return error;
  const Bottleneck block(pool, s, x, expand, w, reduce, reduce_bias, excite, excite_bias, project);
  const int64_t stored = block.plan.stored;
  const supernet::Normalisation before(s.channels, stored, mean1.typed_data(),
                                       variance1.typed_data(), scale1.typed_data(),
                                       bias1.typed_data(), epsilon);
  const supernet::Normalisation after(s.channels, stored, mean2.typed_data(),
                                      variance2.typed_data(), scale2.typed_data(),
                                      bias2.typed_data(), epsilon);
  const supernet::Normalisation last(block.outputs, block.Stored(), mean3.typed_data(),
                                     variance3.typed_data(), scale3.typed_data(),
                                     bias3.typed_data(), epsilon);
  const Forward convolution = block.Convolution(before, y->typed_data());
  Projection job{block.pixels, false, after.Of(), nullptr, block.project, block.outputs, true,
                 last.Of()};
  if (block.CanGoByImage()) {
    block.ByImage(convolution, job, out->typed_data());
  } else if (block.Excites()) {
    const std::vector<float> gates = block.Gates(block.RunWithMeans(convolution, after.Of()));
    job.gates = gates.data();
    job.normed = true;
    block.Project(job, y->typed_data(), out->typed_data());
  } else {
    Run(pool, block.plan.outputs, block.plan.kernels.product, convolution);
    block.Project(job, y->typed_data(), out->typed_data());
  }
  return ffi::Error::Success();
}

// y is what the convolution gives.
ffi::Error BottleneckByBatch(ffi::ThreadPool pool, Array x, Array expand, Array scale1,
                             Array bias1, Array w, Array scale2, Array bias2, Array reduce,
                             Array reduce_bias, Array excite, Array excite_bias, Array project,
                             Array scale3, Array bias3, Result out, Result y, Result mean1,
                             Result variance1, Result mean2, Result variance2, Result mean3,
                             Result variance3, int64_t stride, float epsilon) {
  Shape s;
  if (auto error = CheckProduct(x, expand, w, *y, stride, &s); error.failure()) return error;
  if (auto error = CheckVectors(s, scale1, bias1, scale2, bias2, *mean1, *variance1, *mean2,
                                *variance2);
      error.failure())
    return error;
  if (auto error = CheckBottleneck(s, reduce, reduce_bias, excite, excite_bias, project, *out);
      error.failure())
    return error;
  if (auto error = CheckLast(project, scale3, bias3, *mean3, *variance3); error.failure())
    return error;
  const Bottleneck block(pool, s, x, expand, w, reduce, reduce_bias, excite, excite_bias, project);
  const int64_t stored = block.plan.stored, rows = block.plan.OutputRows();
  ProductMoments(pool, block.plan, x.typed_data(), block.expand, mean1->typed_data(),
                 variance1->typed_data());
  const supernet::Normalisation before(s.channels, stored, mean1->typed_data(),
                                       variance1->typed_data(), scale1.typed_data(),
                                       bias1.typed_data(), epsilon);
  RunWithMoments(pool, block.plan, block.plan.kernels.product,
                 block.Convolution(before, y->typed_data()), mean2->typed_data(),
                 variance2->typed_data());
  const supernet::Normalisation after(s.channels, stored, mean2->typed_data(),
                                      variance2->typed_data(), scale2.typed_data(),
                                      bias2.typed_data(), epsilon);
  Projection job{block.pixels, false, after.Of(), nullptr, block.project, block.outputs, false, {}};
  std::vector<float> gates;
  if (block.Excites()) {
    gates = block.Gates(block.Means(job, y->typed_data()));
    job.gates = gates.data();
  }
  block.Project(job, y->typed_data(), out->typed_data());
  supernet::Moments(pool, rows, block.outputs, out->typed_data(), mean3->typed_data(),
                    variance3->typed_data());
  const supernet::Normalisation last(block.outputs, block.outputs, mean3->typed_data(),
                                     variance3->typed_data(), scale3.typed_data(),
                                     bias3.typed_data(), epsilon);
  supernet::Apply(pool, rows, block.outputs, out->typed_data(), last.Of(), out->typed_data(),
                  false);
  return ffi::Error::Success();
}

ffi::Error Gradient(ffi::ThreadPool pool, Array g, Array x, Array y, Array mean1, Array variance1,
                    Array scale1, Array bias1, Array w, Array mean2, Array variance2, Array scale2,
                    Array bias2, Array of_mean1, Array of_variance1, Array of_mean2,
                    Array of_variance2, Result dx, Result dscale1, Result dbias1, Result dw,
                    Result dscale2, Result dbias2, int64_t stride, float epsilon) {
  Shape s;
  if (auto error = CheckImage(x, w, y, stride, &s); error.failure()) return error;
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
                     dx->typed_data(), before.Of(), after.Of(), second.slope.data(),
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
                          before.Of(), first.slope.data(), first.offset.data(), dx->typed_data(),
                          false);
  return ffi::Error::Success();
}

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
      .template Attr<int64_t>("stride")
      .template Attr<float>("epsilon");
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(BottleneckGiven, BottleneckByGiven, (Binding<20, 2>()));
XLA_FFI_DEFINE_HANDLER_SYMBOL(BottleneckBatch, BottleneckByBatch, (Binding<14, 8>()));
XLA_FFI_DEFINE_HANDLER_SYMBOL(SeparableBatch, Batch, (Binding<6, 6>()));
XLA_FFI_DEFINE_HANDLER_SYMBOL(SeparableGradient, Gradient, (Binding<16, 6>()));
