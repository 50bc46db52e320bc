// The parts of the network that no library call does in one go, for x-86 CPUs.
//
// Everything here is in rows: position t of a signal of C channels is x[t * C .. t * C + C).
// A tile of rows goes through all steps of a part while it is in a core's cache, so that main
// memory sees each signal once. The formulas are those of snac_core/layers.py; all sizes and
// weights are arguments, so that this is compiled once for every model.
//
// The scratch space of each function is its caller's: so many floats for each thread. A thread that
// others hold up leaves its tiles to the rest; how tiles are shared out changes no result.

#include <ATen/cpu/vec/vec.h>
#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

using V = at::vec::Vectorized<float>;
using D = at::vec::Vectorized<double>;

// The matrix product of the library that torch brings along.
extern "C" void sgemm_(const char*, const char*, const int*, const int*, const int*, const float*,
                       const float*, const int*, const float*, const int*, const float*, float*,
                       const int*);

namespace {

// out[m x n] += a[m x k] b[k x n], all of them row by row.
void add_product(int64_t m, int64_t n, int64_t k, const float* a, const float* b, float* out) {
  const int rows = m, columns = n, inner = k;
  const float one = 1;
  sgemm_("N", "N", &columns, &rows, &inner, &one, b, &columns, a, &inner, &one, out, &columns);
}

V load(const float* from, int count) {
  return count == V::size() ? V::loadu(from) : V::loadu(from, count);
}

void store(V value, float* to, int count) {
  count == V::size() ? value.store(to) : value.store(to, count);
}

// Call step(c, how many) for all channels, a vector at a time.
template <class Step>
void for_channels(int64_t channels, Step step) {
  int64_t c = 0;
  for (; c + V::size() <= channels; c += V::size()) step(c, V::size());
  if (c < channels) step(c, static_cast<int>(channels - c));
}

// sin(x)^2, which has the period pi and no sign: so x less its nearest multiple of pi, then a
// polynomial, to within 3 units in the last place of the sine. What is out of the range in which
// two floats stand for pi well enough is left to the library.
V sine_squared(V x) {
  constexpr float most = 1e4f, pi_high = 3.14159274f, pi_low = -8.74227766e-8f;
  if (__builtin_expect((x.abs() > V(most)).zero_mask() != (1 << V::size()) - 1, 0)) {
    const V sine = x.sin();
    return sine * sine;
  }
  const V turns = (x * V(0.318309886f)).round();
  V r = at::vec::fmadd(turns, V(-pi_high), x);
  r = at::vec::fmadd(turns, V(-pi_low), r);
  const V square = r * r;
  V p = at::vec::fmadd(square, V(2.6083159809786594e-06f), V(-1.981069071916863322e-04f));
  p = at::vec::fmadd(square, p, V(8.33307858556509017944e-03f));
  p = at::vec::fmadd(square, p, V(-1.66666597127914428711e-01f));
  const V sine = at::vec::fmadd(r * square, p, r);
  return sine * sine;
}

V snake(V x, V alpha, V inverse) { return x + inverse * sine_squared(alpha * x); }

// Snake of the rows from `first` to `last` of x, zero where x has none.
void snake_rows(const float* x, int64_t length, int64_t channels, const float* alpha,
                const float* inverse, int64_t first, int64_t last, float* out) {
  for (int64_t t = first; t < last; t++, out += channels) {
    if (t < 0 || t >= length) {
      std::memset(out, 0, channels * sizeof(float));
      continue;
    }
    const float* row = x + t * channels;
    for_channels(channels, [&](int64_t c, int n) {
      store(snake(load(row + c, n), load(alpha + c, n), load(inverse + c, n)), out + c, n);
    });
  }
}

// A row of a residual unit, but for the product: what is mixed, and what that adds to. `from` is the
// first of the seven rows of the first snake that it reads, `same` the row of x that passes.
inline void unit_row(int64_t channels, int64_t dilation, const float* from, const float* same,
                     const float* taps, const float* bias1, const float* alpha2,
                     const float* inverse2, const float* bias2, float* mixed, float* out) {
  for_channels(channels, [&](int64_t c, int n) {
    V sum = load(bias1 + c, n);
    for (int tap = 0; tap < 7; tap++)
      sum = at::vec::fmadd(load(from + tap * dilation * channels + c, n),
                           load(taps + tap * channels + c, n), sum);
    store(snake(sum, load(alpha2 + c, n), load(inverse2 + c, n)), mixed + c, n);
    store(load(same + c, n) + load(bias2 + c, n), out + c, n);
  });
}

uint32_t scramble(uint32_t word) {
  word = (word ^ (word >> 16)) * 0x7FEB352Du;
  word = (word ^ (word >> 15)) * 0x846CA68Bu;
  return word ^ (word >> 16);
}

}  // namespace

extern "C" {

// Snake1d of the rows from `first` to `last`, zero where x has none. alpha and inverse, its
// reciprocal: [C].
void snac_snake(const float* x, float* out, int64_t length, int64_t channels, int64_t first,
                int64_t last, const float* alpha, const float* inverse, int64_t threads) {
#pragma omp parallel for num_threads(threads) schedule(dynamic, 64)
  for (int64_t t = first; t < last; t++)
    snake_rows(x, length, channels, alpha, inverse, t, t + 1, out + (t - first) * channels);
}

// A depth-wise ResidualUnit: x + (snake, 7 taps, snake, 1x1). taps: [7][C]; mix: [C in][C out].
// Scratch: (2 rows + 6 dilation) C.
void snac_unit(const float* x, float* out, int64_t length, int64_t channels, int64_t dilation,
               const float* alpha1, const float* inverse1, const float* taps, const float* bias1,
               const float* alpha2, const float* inverse2, const float* mix, const float* bias2,
               int64_t rows, float* scratch, int64_t threads) {
  const int64_t C = channels, halo = 3 * dilation, tiles = (length + rows - 1) / rows;
  const int64_t own = (2 * rows + 2 * halo) * C;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (int64_t tile = 0; tile < tiles; tile++) {
    float* const wide = scratch + omp_get_thread_num() * own;
    float* const mixed = wide + (rows + 2 * halo) * C;
    const int64_t first = tile * rows, last = std::min(length, first + rows);
    snake_rows(x, length, C, alpha1, inverse1, first - halo, last + halo, wide);
    for (int64_t t = first; t < last; t++) {
      unit_row(C, dilation, wide + (t - first) * C, x + t * C, taps, bias1, alpha2, inverse2, bias2,
               mixed + (t - first) * C, out + t * C);
    }
    add_product(last - first, C, C, mixed, mix, out + first * C);
  }
}

// A depth-wise ResidualUnit of streams, late by 3 dilation rows. x and out: [streams][length][C].
// What a stream remembers lies in `before` and is left for its next rows in `after`, `state` floats
// for each: at `slot` the newest 6 dilation rows of the first snake, at `skip` the newest 3 dilation
// rows of x. Scratch: (2 rows + 6 dilation) C.
void snac_streaming_unit(const float* x, float* out, int64_t streams, int64_t length, int64_t channels,
                    int64_t dilation, const float* alpha1, const float* inverse1, const float* taps,
                    const float* bias1, const float* alpha2, const float* inverse2, const float* mix,
                    const float* bias2, const float* before, float* after, int64_t state,
                    int64_t slot, int64_t skip, int64_t rows, float* scratch, int64_t threads) {
  const int64_t C = channels, late = 3 * dilation, reach = 2 * late, all = streams * length;
  const int64_t own = (2 * rows + reach) * C, tiles = (all + rows - 1) / rows;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (int64_t tile = 0; tile < tiles; tile++) {
    float* const wide = scratch + omp_get_thread_num() * own;
    float* const mixed = wide + (rows + reach) * C;
    // A tile goes on from one stream to the next, so that few rows of many make one product.
    const int64_t top = tile * rows, bottom = std::min(all, top + rows);
    for (int64_t row = top, next; row < bottom; row = next) {
      const int64_t stream = row / length, origin = stream * length;
      next = std::min(bottom, origin + length);
      const int64_t first = row - origin, last = next - origin;
      const float *own_x = x + origin * C, *past = before + stream * state;
      const int64_t known = std::clamp<int64_t>(reach - first, 0, reach);
      std::memcpy(wide, past + slot + (reach - known) * C, known * C * sizeof(float));
      snake_rows(own_x, length, C, alpha1, inverse1, first - reach + known, last,
                 wide + known * C);
      for (int64_t t = first; t < last; t++) {
        const float* same = t < late ? past + skip + t * C : own_x + (t - late) * C;
        unit_row(C, dilation, wide + (t - first) * C, same, taps, bias1, alpha2, inverse2, bias2,
                 mixed + (origin + t - top) * C, out + (origin + t) * C);
      }
      if (last < length) continue;
      float* const kept = after + stream * state;
      std::memcpy(kept + slot, wide + (last - first) * C, reach * C * sizeof(float));
      const int64_t old = std::max<int64_t>(late - length, 0);
      std::memcpy(kept + skip, past + skip + length * C, old * C * sizeof(float));
      std::memcpy(kept + skip + old * C, own_x + (length - late + old) * C,
                  (late - old) * C * sizeof(float));
    }
    add_product(bottom - top, C, C, mixed, mix, out + top * C);
  }
}

// NoiseBlock: x + noise (x mixed), with a noise for each position. Scratch: 2 rows C, of which half
// is used, so that it begins alike for all threads.
void snac_noisy(const float* x, float* out, int64_t length, int64_t channels, const float* noise,
                const float* mix, int64_t rows, float* scratch, int64_t threads) {
  const int64_t C = channels, tiles = (length + rows - 1) / rows;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (int64_t tile = 0; tile < tiles; tile++) {
    float* const scaled = scratch + omp_get_thread_num() * 2 * rows * C;
    const int64_t first = tile * rows, last = std::min(length, first + rows);
    for (int64_t t = first; t < last; t++) {
      const float own = noise[t];
      const float* const from = x + t * C;
      std::transform(from, from + C, scaled + (t - first) * C, [&](float v) { return own * v; });
    }
    std::memcpy(out + first * C, x + first * C, (last - first) * C * sizeof(float));
    add_product(last - first, C, C, scaled, mix, out + first * C);
  }
}

// The noise of snac_core/extent.py, draw_normal: out[items][length] of key and start, [items].
void snac_normal(float* out, int64_t items, int64_t length, const int64_t* key,
                 const int64_t* start, int64_t threads) {
  constexpr int64_t run = 1024;
  const int64_t runs = (length + run - 1) / run;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (int64_t one = 0; one < items * runs; one++) {
    const int64_t item = one / runs, first = one % runs * run, count = std::min(run, length - first);
    const uint32_t own = key[item], from = start[item] + first;
    double radius[run], turn[run];
    for (int64_t i = 0; i < run; i++) {
      const uint32_t word = scramble((from + static_cast<uint32_t>(i)) ^ own);
      radius[i] = (scramble(word ^ 0x68E31DA4u) + 1.0) / 4294967296.0;
      turn[i] = 2 * 3.14159265358979323846 * (scramble(word ^ 0xB5297A4Du) / 4294967296.0);
    }
    for (int64_t i = 0; i < run; i += D::size()) {
      const D normal = (D(-2.0) * D::loadu(radius + i).log()).sqrt() * D::loadu(turn + i).cos();
      normal.store(radius + i);
    }
    std::transform(radius, radius + count, out + item * length + first,
                   [](double value) { return static_cast<float>(value); });
  }
}

}  // extern "C"
