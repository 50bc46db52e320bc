// Forward and backward passes of the layers that training computes channels-last, for x86-64 CPUs.
//
// A signal is [items][length][channels]. The formulas are those of the layers as written. Every
// function exists in float, for training, and in double, for checks of its gradients.
//
// A tile of positions goes through all steps of a layer while it is in a core's cache. Gradients of
// weights are sums over tiles: tiles are divided into groups by the shape alone, each group adds up
// its tiles in order, and the groups are added in order. So no result depends on the threads.

#include <ATen/cpu/vec/vec.h>
#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <type_traits>
#include <vector>

// The matrix products of the library that torch brings along.
#define GEMM(name, T)                                                                            \
  extern "C" void name(const char*, const char*, const int*, const int*, const int*, const T*,   \
                       const T*, const int*, const T*, const int*, const T*, T*, const int*);
GEMM(sgemm_, float)
GEMM(dgemm_, double)

namespace {

template <class T>
using Vec = at::vec::Vectorized<T>;

// out[m x n] = beta out + a b, row by row; `ta` and `tb` say that a and b are stored transposed.
template <class T>
void product(bool ta, bool tb, int64_t m, int64_t n, int64_t k, const T* a, const T* b, T beta,
             T* out) {
  const int rows = m, columns = n, inner = k, lda = ta ? m : k, ldb = tb ? k : n;
  const T one = 1;
  const char *left = tb ? "T" : "N", *right = ta ? "T" : "N";
  if constexpr (std::is_same_v<T, float>)
    sgemm_(left, right, &columns, &rows, &inner, &one, b, &ldb, a, &lda, &beta, out, &columns);
  else
    dgemm_(left, right, &columns, &rows, &inner, &one, b, &ldb, a, &lda, &beta, out, &columns);
}

template <class T>
Vec<T> load(const T* from, int count) {
  return count == Vec<T>::size() ? Vec<T>::loadu(from) : Vec<T>::loadu(from, count);
}

template <class T>
void store(Vec<T> value, T* to, int count) {
  count == Vec<T>::size() ? value.store(to) : value.store(to, count);
}

// out[m x n] += a^T b over k rows, a bounded number at a time: for many, the library would choose
// its way by its threads, and the result with it.
template <class T>
void add_outer(int64_t m, int64_t n, int64_t k, const T* a, const T* b, T* out) {
  constexpr int64_t most = 256;
  for (int64_t row = 0; row < k; row += most)
    product<T>(true, false, m, n, std::min(most, k - row), a + row * m, b + row * n, 1, out);
}

// Memory of this thread, kept for its next call. Each place is aligned for vectors.
template <class T>
T* scratch(int place, int64_t size) {
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  static thread_local std::unique_ptr<void, Free> memory[4];
  static thread_local int64_t capacity[4] = {};
  const int64_t bytes = (size * sizeof(T) + 127) / 64 * 64;
  if (capacity[place] < bytes) {
    memory[place].reset();
    memory[place].reset(std::aligned_alloc(64, bytes));
    capacity[place] = bytes;
  }
  return static_cast<T*>(memory[place].get());
}

// Sine and cosine of x up to a common sign, which their square and product do not have: of x less
// its nearest multiple of pi. Polynomials to within some units in the last place; what is out of the
// range in which two floats stand for pi well enough is left to the library.
template <class T>
void sine_cosine(Vec<T> x, Vec<T>& sine, Vec<T>& cosine) {
  sine = x.sin();
  cosine = x.cos();
}

template <>
void sine_cosine(Vec<float> x, Vec<float>& sine, Vec<float>& cosine) {
  using V = Vec<float>;
  constexpr float most = 1e4f, pi_high = 3.14159274f, pi_low = -8.74227766e-8f;
  if (__builtin_expect((x.abs() > V(most)).zero_mask() != (1 << V::size()) - 1, 0)) {
    sine = x.sin();
    cosine = x.cos();
    return;
  }
  const V turns = (x * V(0.318309886f)).round();
  V r = at::vec::fmadd(turns, V(-pi_high), x);
  r = at::vec::fmadd(turns, V(-pi_low), r);
  const V square = r * r;
  V p = at::vec::fmadd(square, V(2.6083159809786594e-06f), V(-1.981069071916863322e-04f));
  p = at::vec::fmadd(square, p, V(8.33307858556509017944e-03f));
  p = at::vec::fmadd(square, p, V(-1.66666597127914428711e-01f));
  sine = at::vec::fmadd(r * square, p, r);
  V q = at::vec::fmadd(square, V(-2.61938138e-07f), V(2.47693041613562302e-05f));
  q = at::vec::fmadd(square, q, V(-1.38885691604403961e-03f));
  q = at::vec::fmadd(square, q, V(4.16666557730840936e-02f));
  cosine = at::vec::fmadd(square * square, q, at::vec::fmadd(square, V(-0.5f), V(1.0f)));
}

// Weights of channels, repeated until a whole number of vectors holds them: `period` numbers. A
// signal is then walked in vectors, however few its channels are; every row begins a period.
template <class T>
struct Channels {
  int64_t count, period;

  explicit Channels(int64_t channels)
      : count(channels), period(std::lcm(channels, static_cast<int64_t>(Vec<T>::size()))) {}

  std::vector<T> repeat(const T* weights) const {
    std::vector<T> out(period);
    for (int64_t i = 0; i < period; i++) out[i] = weights[i % count];
    return out;
  }

  // Call step(i, c, how many) for all i in [0, size), c being i modulo the period; in order.
  template <class Step>
  void in_order(int64_t size, Step step) const {
    constexpr int64_t V = Vec<T>::size();
    int64_t i = 0, c = 0;
    for (; i + V <= size; i += V) {
      step(i, c, static_cast<int>(V));
      c = c + V == period ? 0 : c + V;
    }
    if (i < size) step(i, c, static_cast<int>(size - i));
  }

  // Call step(i, how many) for all i that are c modulo the period.
  template <class Step>
  void at(int64_t c, int64_t size, Step step) const {
    constexpr int64_t V = Vec<T>::size();
    int64_t i = c;
    for (; i + V <= size; i += period) step(i, static_cast<int>(V));
    if (i < size) step(i, static_cast<int>(size - i));
  }

  // Add what the lanes at c hold to the channels that they belong to.
  void add(int64_t c, Vec<T> lanes, T* sums) const {
    T values[Vec<T>::size()];
    lanes.store(values);
    for (int64_t j = 0; j < Vec<T>::size(); j++) sums[(c + j) % count] += values[j];
  }
};

// A Snake activation's weights.
template <class T>
struct Snake {
  using V = Vec<T>;
  std::vector<T> alpha, inverse;

  Snake(const Channels<T>& channels, const T* weights) : alpha(channels.repeat(weights)) {
    for (const T value : alpha) inverse.push_back(1 / (value + static_cast<T>(1e-9)));
  }

  V value(V x, int64_t c) const {
    V sine, cosine;
    sine_cosine<T>(V::loadu(&alpha[c]) * x, sine, cosine);
    return at::vec::fmadd(V::loadu(&inverse[c]), sine * sine, x);
  }

  // Return the activation of x; its derivatives are left in `by_x` and `by_alpha`.
  V slopes(V x, int64_t c, V& by_x, V& by_alpha) const {
    const V a = V::loadu(&alpha[c]), inv = V::loadu(&inverse[c]);
    V sine, cosine;
    sine_cosine<T>(a * x, sine, cosine);
    const V square = sine * sine, twice = V(2) * sine * cosine;
    by_x = at::vec::fmadd(inv * a, twice, V(1));
    by_alpha = inv * (x * twice - inv * square);
    return at::vec::fmadd(inv, square, x);
  }
};

// How the positions of all items are divided into tiles, and tiles into groups.
struct Tiling {
  int64_t length, rows, per_item, tiles, groups;

  // `weights` floats are added up by each group.
  Tiling(int64_t items, int64_t length, int64_t channels, int64_t weights)
      : length(length),
        rows(std::max<int64_t>((1 << 15) / channels, 256) / 16 * 16),
        per_item((length + rows - 1) / rows),
        tiles(items * per_item),
        groups(std::min(tiles, std::max<int64_t>((1 << 22) / weights, 16))) {}

  // Call step(item, first, last) for the tiles of one group, in order.
  template <class Step>
  void of_group(int64_t group, Step step) const {
    for (int64_t tile = group * tiles / groups; tile < (group + 1) * tiles / groups; tile++) {
      const int64_t first = tile % per_item * rows;
      step(tile / per_item, first, std::min(length, first + rows));
    }
  }
};

// Add up what each group left, [groups][size], in order.
template <class T>
void add_groups(const T* parts, int64_t groups, int64_t size, T* out, int64_t threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t i = 0; i < size; i++) {
    T sum = 0;
    for (int64_t group = 0; group < groups; group++) sum += parts[group * size + i];
    out[i] = sum;
  }
}

// Snake of the rows from `first` to `last` of an item; zero before the item and from `end` on.
template <class T>
void snake_rows(const Channels<T>& channels, const Snake<T>& snake, const T* x, int64_t end,
                int64_t first, int64_t last, T* out) {
  const int64_t C = channels.count;
  const int64_t begin = std::clamp<int64_t>(0, first, last), stop = std::clamp(end, begin, last);
  std::memset(out, 0, (begin - first) * C * sizeof(T));
  std::memset(out + (stop - first) * C, 0, (last - stop) * C * sizeof(T));
  const T* const from = x + begin * C;
  T* const to = out + (begin - first) * C;
  channels.in_order((stop - begin) * C, [&](int64_t i, int64_t c, int n) {
    store(snake.value(load(from + i, n), c), to + i, n);
  });
}

template <class T>
void snake_forward(const T* x, T* out, int64_t items, int64_t length, int64_t C, int64_t before,
                   int64_t after, const int64_t* ends, const T* alpha, int64_t threads) {
  const Channels<T> channels(C);
  const Snake<T> snake(channels, alpha);
  const int64_t padded = before + length + after;
  const Tiling tiling(items, padded, C, C);
#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (int64_t group = 0; group < tiling.groups; group++)
    tiling.of_group(group, [&](int64_t item, int64_t first, int64_t last) {
      snake_rows(channels, snake, x + item * length * C, ends[item], first - before, last - before,
                 out + (item * padded + first) * C);
    });
}

template <class T>
void snake_backward(const T* x, const T* grad, T* grad_x, int64_t items, int64_t length, int64_t C,
                    int64_t before, int64_t after, const int64_t* ends, const T* alpha,
                    T* grad_alpha, int64_t threads) {
  using V = Vec<T>;
  const Channels<T> channels(C);
  const Snake<T> snake(channels, alpha);
  const int64_t padded = before + length + after;
  const Tiling tiling(items, length, C, C);
  std::vector<T> parts(tiling.groups * C);
#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (int64_t group = 0; group < tiling.groups; group++)
    tiling.of_group(group, [&](int64_t item, int64_t first, int64_t last) {
      const int64_t stop = std::clamp(ends[item], first, last), size = (stop - first) * C;
      const T* const from = x + (item * length + first) * C;
      const T* const down = grad + (item * padded + before + first) * C;
      T* const to = grad_x + (item * length + first) * C;
      std::memset(to + size, 0, (last - stop) * C * sizeof(T));
      for (int64_t c = 0; c < channels.period; c += V::size()) {
        V sum(0);
        channels.at(c, size, [&](int64_t i, int n) {
          V by_x, by_alpha;
          const V g = load(down + i, n);
          snake.slopes(load(from + i, n), c, by_x, by_alpha);
          store(g * by_x, to + i, n);
          sum = at::vec::fmadd(g, by_alpha, sum);
        });
        channels.add(c, sum, &parts[group * C]);
      }
    });
  add_groups(parts.data(), tiling.groups, C, grad_alpha, threads);
}

// The weights of a residual unit.
template <class T>
struct Unit {
  using V = Vec<T>;
  Channels<T> channels;
  Snake<T> first, second;
  std::vector<T> taps, bias, mix_bias;
  int64_t step;

  // taps: [7][C].
  Unit(int64_t C, int64_t dilation, const T* alpha1, const T* weights, const T* bias1,
       const T* alpha2, const T* bias2)
      : channels(C),
        first(channels, alpha1),
        second(channels, alpha2),
        bias(channels.repeat(bias1)),
        mix_bias(channels.repeat(bias2)),
        step(dilation * C) {
    for (int64_t tap = 0; tap < 7; tap++)
      for (const T value : channels.repeat(weights + tap * C)) taps.push_back(value);
  }

  V tap(int64_t number, int64_t c) const { return V::loadu(&taps[number * channels.period + c]); }
};

// ResidualUnit. mix: [C out][C in].
template <class T>
void unit_forward(const T* x, T* out, int64_t items, int64_t length, int64_t C, int64_t dilation,
                  const int64_t* ends, const T* alpha1, const T* taps, const T* bias1,
                  const T* alpha2, const T* mix, const T* bias2, int64_t threads) {
  using V = Vec<T>;
  const Unit<T> unit(C, dilation, alpha1, taps, bias1, alpha2, bias2);
  const Tiling tiling(items, length, C, C);
  const int64_t halo = 3 * dilation;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (int64_t group = 0; group < tiling.groups; group++) {
    T* const wide = scratch<T>(0, (tiling.rows + 2 * halo) * C);
    T* const mixed = scratch<T>(1, tiling.rows * C);
    tiling.of_group(group, [&](int64_t item, int64_t first, int64_t last) {
      const T* const same = x + (item * length + first) * C;
      T* const to = out + (item * length + first) * C;
      snake_rows(unit.channels, unit.first, x + item * length * C, ends[item], first - halo,
                 last + halo, wide);
      for (int64_t c = 0; c < unit.channels.period; c += V::size()) {
        const V bias = V::loadu(&unit.bias[c]), mix_bias = V::loadu(&unit.mix_bias[c]);
        V tap[7];
        for (int k = 0; k < 7; k++) tap[k] = unit.tap(k, c);
        unit.channels.at(c, (last - first) * C, [&](int64_t i, int n) {
          V sum = bias;
          for (int k = 0; k < 7; k++)
            sum = at::vec::fmadd(load(wide + i + k * unit.step, n), tap[k], sum);
          store(unit.second.value(sum, c), mixed + i, n);
          store(load(same + i, n) + mix_bias, to + i, n);
        });
      }
      product<T>(false, true, last - first, C, C, mixed, mix, 1, to);
    });
  }
}

// The gradients of ResidualUnit, its inner signals computed once more from x. Those of the weights
// are left in `grad_weights`: mix, [C out][C in], then [C] each of bias2, alpha2, bias1, the seven
// taps and alpha1.
template <class T>
void unit_backward(const T* x, const T* grad, T* grad_x, T* grad_weights, int64_t items,
                   int64_t length, int64_t C, int64_t dilation, const int64_t* ends,
                   const T* alpha1, const T* taps, const T* bias1, const T* alpha2, const T* mix,
                   const T* bias2, int64_t threads) {
  using V = Vec<T>;
  const Unit<T> unit(C, dilation, alpha1, taps, bias1, alpha2, bias2);
  const Channels<T>& channels = unit.channels;
  const int64_t halo = 3 * dilation, step = unit.step, weights = C * C + 11 * C;
  const Tiling tiling(items, length, C, weights);
  std::vector<T> parts(tiling.groups * weights);
#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (int64_t group = 0; group < tiling.groups; group++) {
    // Rows first - 6 dilation ... of the first snake, first - 3 dilation ... of the gradients at
    // the second snake, before and after it; and the rows from first on that are mixed.
    T* const wide = scratch<T>(0, (tiling.rows + 4 * halo) * C);
    T* const inner = scratch<T>(1, (tiling.rows + 2 * halo) * C);
    T* const outer = scratch<T>(2, (tiling.rows + 2 * halo) * C);
    T* const mixed = scratch<T>(3, tiling.rows * C);
    T* const own = &parts[group * weights];
    T* const sums = own + C * C;
    tiling.of_group(group, [&](int64_t item, int64_t first, int64_t last) {
      const T* const item_x = x + item * length * C;
      const T* const item_grad = grad + item * length * C;
      const int64_t size = (last - first) * C;
      snake_rows(channels, unit.first, item_x, ends[item], first - 2 * halo, last + 2 * halo, wide);
      const int64_t low = std::max<int64_t>(first - halo, 0), high = std::min(last + halo, length);
      product<T>(false, false, high - low, C, C, item_grad + low * C, mix, 0,
                 outer + (low - first + halo) * C);
      std::memset(inner, 0, (low - first + halo) * C * sizeof(T));
      std::memset(inner + (high - first + halo) * C, 0, (last + halo - high) * C * sizeof(T));

      // Back through the second snake, for rows that count for weights and for others.
      const auto through = [&](int64_t from, int64_t to, bool count) {
        const int64_t place = (from - first + halo) * C;
        for (int64_t c = 0; c < channels.period; c += V::size()) {
          const V bias = V::loadu(&unit.bias[c]);
          V tap[7], by_mix_bias(0), by_alpha_sum(0), by_bias(0);
          for (int k = 0; k < 7; k++) tap[k] = unit.tap(k, c);
          channels.at(c, (to - from) * C, [&](int64_t i, int n) {
            V sum = bias, by_x, by_alpha;
            for (int k = 0; k < 7; k++)
              sum = at::vec::fmadd(load(wide + place + i + k * step, n), tap[k], sum);
            const V value = unit.second.slopes(sum, c, by_x, by_alpha);
            const V at_mixed = load(outer + place + i, n), at_sum = at_mixed * by_x;
            store(at_sum, inner + place + i, n);
            if (!count) return;
            store(value, mixed + i, n);
            by_mix_bias = by_mix_bias + load(item_grad + first * C + i, n);
            by_alpha_sum = at::vec::fmadd(at_mixed, by_alpha, by_alpha_sum);
            by_bias = by_bias + at_sum;
          });
          if (!count) continue;
          channels.add(c, by_mix_bias, sums);
          channels.add(c, by_alpha_sum, sums + C);
          channels.add(c, by_bias, sums + 2 * C);
        }
      };
      through(low, first, false);
      through(first, last, true);
      through(last, high, false);
      add_outer<T>(C, C, last - first, item_grad + first * C, mixed, own);

      const int64_t inside = (std::clamp(ends[item], first, last) - first) * C;
      for (int64_t c = 0; c < channels.period; c += V::size()) {
        V tap[7], by_tap[7], by_alpha_sum(0);
        for (int k = 0; k < 7; k++) by_tap[k] = V(0);
        channels.at(c, size, [&](int64_t i, int n) {
          const V at_sum = load(inner + halo * C + i, n);
          for (int k = 0; k < 7; k++)
            by_tap[k] =
                at::vec::fmadd(at_sum, load(wide + halo * C + i + k * step, n), by_tap[k]);
        });
        for (int k = 0; k < 7; k++) {
          channels.add(c, by_tap[k], sums + (3 + k) * C);
          tap[k] = unit.tap(6 - k, c);
        }
        const T* const from = item_x + first * C;
        const T* const skip = item_grad + first * C;
        T* const to = grad_x + (item * length + first) * C;
        channels.at(c, inside, [&](int64_t i, int n) {
          V sum(0), by_x, by_alpha;
          for (int k = 0; k < 7; k++) sum = at::vec::fmadd(load(inner + i + k * step, n), tap[k], sum);
          unit.first.slopes(load(from + i, n), c, by_x, by_alpha);
          store(at::vec::fmadd(sum, by_x, load(skip + i, n)), to + i, n);
          by_alpha_sum = at::vec::fmadd(sum, by_alpha, by_alpha_sum);
        });
        channels.add(c, by_alpha_sum, sums + 10 * C);
      }
      std::memcpy(grad_x + (item * length + first) * C + inside,
                  item_grad + first * C + inside, (size - inside) * sizeof(T));
    });
  }
  add_groups(parts.data(), tiling.groups, weights, grad_weights, threads);
}

// out = each row of x times its noise.
template <class T>
void scale_rows(const T* x, const T* noise, int64_t rows, int64_t C, T* out) {
  for (int64_t t = 0; t < rows; t++)
    std::transform(x + t * C, x + (t + 1) * C, out + t * C, [&](T v) { return noise[t] * v; });
}

// NoiseBlock: x + noise (x mixed). Items of x begin `stride` numbers apart. noise: [items][length];
// mix: [C out][C in].
template <class T>
void noise_forward(const T* x, int64_t stride, T* out, int64_t items, int64_t length, int64_t C,
                   const T* noise, const T* mix, int64_t threads) {
  const Tiling tiling(items, length, C, C);
#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (int64_t group = 0; group < tiling.groups; group++) {
    T* const scaled = scratch<T>(0, tiling.rows * C);
    tiling.of_group(group, [&](int64_t item, int64_t first, int64_t last) {
      const T* const from = x + item * stride + first * C;
      T* const to = out + (item * length + first) * C;
      scale_rows(from, noise + item * length + first, last - first, C, scaled);
      std::memcpy(to, from, (last - first) * C * sizeof(T));
      product<T>(false, true, last - first, C, C, scaled, mix, 1, to);
    });
  }
}

template <class T>
void noise_backward(const T* x, int64_t stride, const T* grad, T* grad_x, T* grad_mix,
                    int64_t items, int64_t length, int64_t C, const T* noise, const T* mix,
                    int64_t threads) {
  const Tiling tiling(items, length, C, C * C);
  std::vector<T> parts(tiling.groups * C * C);
#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (int64_t group = 0; group < tiling.groups; group++) {
    T* const scaled = scratch<T>(0, tiling.rows * C);
    tiling.of_group(group, [&](int64_t item, int64_t first, int64_t last) {
      const int64_t rows = last - first, place = (item * length + first) * C;
      scale_rows(grad + place, noise + item * length + first, rows, C, scaled);
      std::memcpy(grad_x + place, grad + place, rows * C * sizeof(T));
      product<T>(false, false, rows, C, C, scaled, mix, 1, grad_x + place);
      add_outer<T>(C, C, rows, scaled, x + item * stride + first * C, &parts[group * C * C]);
    });
  }
  add_groups(parts.data(), tiling.groups, C * C, grad_mix, threads);
}

}  // namespace

// Each function's address, in float and in double.
#define EXPORT(name)                        \
  auto* snac_##name##_f32 = &name<float>;   \
  auto* snac_##name##_f64 = &name<double>;

extern "C" {
EXPORT(snake_forward)
EXPORT(snake_backward)
EXPORT(unit_forward)
EXPORT(unit_backward)
EXPORT(noise_forward)
EXPORT(noise_backward)
}
