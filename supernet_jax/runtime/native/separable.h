// Depthwise convolution between two normalisations: what is computed, and the parts it falls into.

#ifndef SUPERNET_JAX_NATIVE_SEPARABLE_H_
#define SUPERNET_JAX_NATIVE_SEPARABLE_H_

#include <algorithm>
#include <cstdint>

namespace {

struct Shape {
  int64_t batch, height, width, channels;  // of the input
  int64_t rows, columns;                   // of the output
  int64_t kernel, stride;

  int64_t Margin() const { return kernel / 2; }
};

// Some rows of some images, for some vectors of channels.
struct Task {
  int64_t sums;                       // where its sums go
  int64_t image, images, from, to;    // rows from, to
  int64_t first_vector, vectors;

  int64_t Rows() const { return images * (to - from); }
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

// The taps that meet the pixels of a class along one axis: with a stride of 2, a pixel in two is met
// by every other tap only. The gradient's lines have `before` zeros before the image.
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

struct Norm {  // z = (x - mean) * factor + shift; all vectors are [channels] for whole vectors
  const float *mean, *factor, *shift;
};

struct Forward {
  Shape shape;
  const float *x, *taps;  // taps: packed [vectors][k * k][lanes]
  float* y;
  Norm before, after;
  float *means, *squares;  // [sums][channels]: of y, around the mean
  int64_t stored;          // channels for whole vectors
};

struct Backward {
  Shape shape;
  const float *g, *x, *y, *taps;  // y: before its normalisation, g: the gradient after it;
                                     // taps: packed, class by class
  float* dx;
  Norm before, after;
  const float *slope, *offset;  // what the gradient before `after` has besides
  float* dtaps;                 // [sums][k * k][channels]
  float *totals, *alongs;       // [sums][channels]: of the gradient before `before`
  int64_t stored;
};

}  // namespace

#endif  // SUPERNET_JAX_NATIVE_SEPARABLE_H_
