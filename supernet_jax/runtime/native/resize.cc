// Part of an image of RGB bytes brought to a square, as Pillow's bilinear filter does it: to the bit,
// in a third of its time. Python calls it, not XLA.
//
// Pillow (src/libImaging/Resample.c) resizes the rows, rounds to bytes, and resizes the columns. A
// pixel is a sum of its neighbours, in integers: each neighbour times a weight of 22 binary places.
// Integers add up to the same in any order, so vectors change nothing. Only x86-64 with AVX2 has
// them here: what a compiler makes of plain code is no faster than Pillow.

#include <cstdint>

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#define AVX2 __attribute__((target("avx2")))

namespace {

constexpr int kBits = 22;
constexpr int32_t kHalf = 1 << (kBits - 1);
constexpr int kChannels = 3;
constexpr int kLoad = 16;  // bytes that are read at once, five pixels
constexpr int kChunk = 4;  // pixels of them that are used at once

// Which pixels of a line the pixels of the new line are made of, and the weight of each.
struct Weights {
  int size;                // pixels of the new line
  int taps = 0;            // old pixels for each of them
  std::vector<int> first;  // [size]
  std::vector<int32_t> factors;  // [size, taps], 0 for pixels that do not count

  // `length` pixels, of which those from `begin` to `end` become `size`.
  Weights(int length, float begin, float end, int size) : size(size), first(size) {
    const double scale = double(end - begin) / size, reach = std::max(scale, 1.0);
    const auto centre = [&](int x) { return begin + (x + 0.5) * scale; };
    const auto from = [&](int x) { return std::max(int(centre(x) - reach + 0.5), 0); };
    const auto to = [&](int x) { return std::min(int(centre(x) + reach + 0.5), length); };
    for (int x = 0; x < size; ++x) taps = std::max(taps, to(x) - from(x));
    factors.assign(size_t(size) * taps, 0);
    std::vector<double> shares(taps);
    for (int x = 0; x < size; ++x) {
      const int start = from(x), count = to(x) - start;
      double total = 0;
      for (int t = 0; t < count; ++t) {
        const double distance = std::abs((t + start - centre(x) + 0.5) * (1.0 / reach));
        total += shares[t] = distance < 1 ? 1 - distance : 0;
      }
      first[x] = std::min(start, length - taps);
      int32_t* own = &factors[size_t(x) * taps + (start - first[x])];
      for (int t = 0; t < count; ++t) {
        own[t] = int32_t(0.5 + (total != 0 ? shares[t] / total : shares[t]) * (1 << kBits));
      }
    }
  }
};

// The weights of two neighbours at once, each once for each of four bytes: [pairs, taps, 2, 4].
std::vector<int32_t> InPairs(const Weights& weights, int taps) {
  std::vector<int32_t> out(size_t(weights.size + 1) / 2 * taps * 8, 0);
  for (int x = 0; x < weights.size; ++x) {
    for (int t = 0; t < weights.taps; ++t) {
      int32_t* own = &out[(size_t(x / 2) * taps + t) * 8 + x % 2 * 4];
      std::fill(own, own + 4, weights.factors[size_t(x) * weights.taps + t]);
    }
  }
  return out;
}

AVX2 inline __m128i Load(const uint8_t* at) { return _mm_loadu_si128((const __m128i*)at); }

AVX2 inline __m256i Widen(const uint8_t* eight) {
  return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)eight));
}

// A row of pixels resized, two at once. Reads up to `kLoad` bytes behind the row, and writes up to
// four behind the result. Taps are T, or a multiple of `kChunk` if that is 0.
template <int T>
AVX2 void ResizeRow(const uint8_t* row, const Weights& weights, const int32_t* pairs, int taps,
                    uint8_t* out) {
  constexpr int chunk = T ? T : kChunk;
  static_assert(chunk <= kChunk);
  if (T) taps = T;
  __m256i widen[kChunk];  // the bytes of a pixel as integers of 32 bits, in either half
  for (int t = 0; t < kChunk; ++t) {
    const int p = kChannels * t;
    widen[t] = _mm256_broadcastsi128_si256(_mm_setr_epi8(p, -1, -1, -1, p + 1, -1, -1, -1, p + 2,
                                                         -1, -1, -1, -1, -1, -1, -1));
  }
  const __m256i narrow = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(0, 4, 8, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1));
  for (int x = 0; x < weights.size; x += 2, pairs += 8 * taps) {
    const uint8_t* one = row + size_t(weights.first[x]) * kChannels;
    const uint8_t* two = row + size_t(weights.first[std::min(x + 1, weights.size - 1)]) * kChannels;
    __m256i sum = _mm256_set1_epi32(kHalf);
    for (int t = 0; t < taps; t += chunk) {
      const __m256i bytes = _mm256_inserti128_si256(
          _mm256_castsi128_si256(Load(one + kChannels * t)), Load(two + kChannels * t), 1);
      for (int u = 0; u < chunk; ++u) {
        const __m256i factor = _mm256_loadu_si256((const __m256i*)(pairs + 8 * (t + u)));
        const __m256i pixels = _mm256_shuffle_epi8(bytes, widen[u]);
        sum = _mm256_add_epi32(sum, _mm256_mullo_epi32(pixels, factor));
      }
    }
    sum = _mm256_shuffle_epi8(_mm256_srli_epi32(sum, kBits), narrow);
    const int32_t made[2] = {_mm256_extract_epi32(sum, 0), _mm256_extract_epi32(sum, 4)};
    std::memcpy(out + kChannels * x, &made[0], 4);
    std::memcpy(out + kChannels * (x + 1), &made[1], 4);
  }
}

// A weighted sum of rows of n bytes, 16 at once. Reads up to the next multiple of 16.
template <int T>
AVX2 void SumRows(const uint8_t* rows, int64_t pitch, const int32_t* factors, int taps, int64_t n,
                  uint8_t* out) {
  if (T) taps = T;
  for (int64_t i = 0; i < n; i += 16) {
    __m256i low = _mm256_set1_epi32(kHalf), high = low;
    for (int t = 0; t < taps; ++t) {
      const uint8_t* at = rows + t * pitch + i;
      const __m256i factor = _mm256_set1_epi32(factors[t]);
      low = _mm256_add_epi32(low, _mm256_mullo_epi32(Widen(at), factor));
      high = _mm256_add_epi32(high, _mm256_mullo_epi32(Widen(at + 8), factor));
    }
    low = _mm256_packus_epi32(_mm256_srli_epi32(low, kBits), _mm256_srli_epi32(high, kBits));
    low = _mm256_permute4x64_epi64(low, 0xd8);  // packing goes by halves
    const __m128i made =
        _mm_packus_epi16(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1));
    std::memcpy(out + i, &made, std::min<int64_t>(n - i, 16));
  }
}

// The function for so many taps: few are the rule, and then loops over them are unrolled.
auto RowFunction(int taps) {
  return taps == 2 ? ResizeRow<2> : taps == 3 ? ResizeRow<3> : taps == 4 ? ResizeRow<4>
                                                                         : ResizeRow<0>;
}

auto SumFunction(int taps) {
  return taps == 2 ? SumRows<2> : taps == 3 ? SumRows<3> : taps == 4 ? SumRows<4> : SumRows<0>;
}

}  // namespace

// Args: `image` [height, width, 3]; `box` left, upper, right, lower, in pixels, inside the image;
// `out` [size, size, 3].
extern "C" void SupernetResize(const uint8_t* image, int64_t height, int64_t width,
                              const float* box, int64_t size, uint8_t* out) {
  const Weights across(int(width), box[0], box[2], int(size));
  const Weights down(int(height), box[1], box[3], int(size));
  const bool few = 2 <= across.taps && across.taps <= 4;
  const int taps = few ? across.taps : (across.taps + kChunk - 1) / kChunk * kChunk;
  const std::vector<int32_t> pairs = InPairs(across, taps);
  const auto resize_row = RowFunction(taps);
  const auto sum_rows = SumFunction(down.taps);

  const int64_t stride = width * kChannels, filled = size * kChannels;
  const int64_t pitch = filled + 2 * kLoad;
  const int64_t top = down.first.front(), bottom = down.first.back() + down.taps;
  const std::unique_ptr<uint8_t[]> narrowed(new uint8_t[(bottom - top) * pitch]);
  std::vector<uint8_t> last;  // with something to read behind it
  for (int64_t y = top; y < bottom; ++y) {
    const uint8_t* row = image + y * stride;
    if ((height - 1 - y) * stride < kLoad) {
      last.assign(row, row + stride);
      last.resize(stride + kLoad);
      row = last.data();
    }
    resize_row(row, across, pairs.data(), taps, narrowed.get() + (y - top) * pitch);
  }
  for (int64_t y = 0; y < size; ++y) {
    sum_rows(narrowed.get() + (down.first[y] - top) * pitch, pitch,
             &down.factors[size_t(y) * down.taps], down.taps, filled, out + y * filled);
  }
}

extern "C" bool SupernetCanResize() { return __builtin_cpu_supports("avx2"); }

#else

extern "C" bool SupernetCanResize() { return false; }

#endif
