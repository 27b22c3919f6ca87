// What the kernels share: work in parallel, and which instruction set the machine has.

#ifndef SUPERNET_JAX_NATIVE_COMMON_H_
#define SUPERNET_JAX_NATIVE_COMMON_H_

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>

#include "xla/ffi/api/ffi.h"

// Kernels are compiled once for each set, by including their .inc files in several namespaces.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define SEVERAL_INSTRUCTION_SETS
#include <immintrin.h>
#endif

// For what must lie within a loop: the compiler's own measure of size would leave it out.
#define INLINED __attribute__((always_inline))
#define INLINE inline INLINED

namespace ffi = xla::ffi;

namespace {

using Array = ffi::Buffer<ffi::F32>;
using Result = ffi::Result<Array>;

enum class Instructions { kPlain, kAvx2, kAvx512 };

inline Instructions Available() {
#ifdef SEVERAL_INSTRUCTION_SETS
  if (__builtin_cpu_supports("avx512f")) return Instructions::kAvx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Instructions::kAvx2;
#endif
  return Instructions::kPlain;
}

// Calls work(i) for every i below n, on the caller and whichever threads of the pool are free.
template <class F>
void InParallel(ffi::ThreadPool& pool, int64_t n, const F& work) {
  struct Progress {
    std::atomic<int64_t> next{0};
    int64_t done = 0;
    std::mutex mutex;
    std::condition_variable all_done;
  };
  auto progress = std::make_shared<Progress>();
  auto run = [progress, n, &work] {
    int64_t count = 0;
    for (int64_t i; (i = progress->next.fetch_add(1)) < n; ++count) work(i);
    std::lock_guard<std::mutex> lock(progress->mutex);
    // A helper that comes too late does nothing here, and `work` may be gone by then.
    if ((progress->done += count) == n && count) progress->all_done.notify_all();
  };
  const int64_t helpers = std::min(pool.num_threads(), n) - 1;
  for (int64_t i = 0; i < helpers; ++i) pool.Schedule([run] { run(); });
  run();
  std::unique_lock<std::mutex> lock(progress->mutex);
  progress->all_done.wait(lock, [&] { return progress->done == n; });
}

}  // namespace

#endif  // SUPERNET_JAX_NATIVE_COMMON_H_
