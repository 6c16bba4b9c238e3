#pragma once
// Measures the machine at hand: products, streams, attention, launches and collectives, with the library's own operations, and makes a cluster of it that the
// planner takes (plan/calibration.hpp). All ranks measure at the same time, so what they share (cores, caches, memory) is in the numbers.
//
//   each rank    barrier | calls | calls | ... | wait      the slowest rank's time; the least of some repeats, which others disturbed least
//   calibrate(options, say)         ranks as threads on the host, in fp32
//   train/calibrate.cuh             the same on CUDA devices, in bf16
#include <moefold/comm/thread.hpp>
#include <moefold/core/callback.hpp>
#include <moefold/core/rng.hpp>
#include <moefold/core/text_table.hpp>
#include <moefold/ops/activation.hpp>
#include <moefold/ops/elementwise.hpp>
#include <moefold/ops/flash.hpp>
#include <moefold/ops/grouped_gemm.hpp>
#include <moefold/ops/norm.hpp>
#include <moefold/plan/calibration.hpp>
#include <moefold/tensor/copy.hpp>
#include <moefold/tensor/tensor.hpp>
#include <moefold/train/cluster_file.hpp>

#include <chrono>
#include <cmath>
#include <thread>

#include <unistd.h>

namespace moefold {

struct calibration_options {
  int ranks = 0;              // that measure at the same time; 0: a thread per core, at least 2; on devices one for each
  double window = 0.02;       // seconds of calls in one measurement
  int repeats = 5;            // of which the fastest counts
  extent_t product = 256;     // extents of products are this number times 1/32 to 4
  extent_t stream = 4 << 20;  // bytes of a tensor that is streamed
  extent_t sequence = 256, heads = 8, width = 32;  // of attention: tokens, heads, elements of a head
  std::size_t largest_message = 16 << 20;          // bytes that a rank sends in one call; from 1 KiB on
  bool every_group = true;                         // collectives are measured for 2, 4, ... ranks too; else for all ranks together only
  bool collectives = true;                         // whether the ranks' communicator is measured
};
using calibration_progress = callback<void(const std::string&)>;

namespace detail {

using calibration_clock = std::chrono::steady_clock;

/// Random numbers in the memory of e: zeros would cost less power, and be faster, than numbers are.
template <class T, class Exec>
tensor<T, typename Exec::memory> calibration_numbers(Exec e, const shape& extents, std::uint64_t seed) {
  tensor<T, typename Exec::memory> to(extents);
  const auto count = extent_t(to.size()), part = std::min<extent_t>(count, 1 << 18);
  const random_stream random(seed, "calibrate");
  std::vector<T> numbers;
  for (extent_t i = 0; i < part; ++i) numbers.push_back(T(float(2 * random.uniform(std::uint64_t(i)) - 1)));
  for (extent_t at = 0; at < count; at += part) {
    const extent_t n = std::min(part, count - at);
    upload<T>(e, view<const T>(numbers.data(), {n}), view<T>(to.data() + at, {n}));
  }
  e.wait();
  return to;
}
template <class T, class Exec>
tensor<T, typename Exec::memory> calibration_upload(Exec e, const std::vector<T>& from) {
  tensor<T, typename Exec::memory> to(shape{extent_t(from.size())});
  upload<T>(e, view<const T>(from.data(), to.shape()), to.view());
  e.wait();
  return to;
}

/// What one rank does. T: the elements of weights and activations. Comm has operations on the memory of Exec and of the host.
template <class T, class Exec, class Comm>
class calibrator {
 public:
  template <class U>
  using own = tensor<U, typename Exec::memory>;

  calibrator(Exec e, host_exec host, Comm& world, const calibration_options& options, const calibration_progress& say)
      : e_(e), host_(host), world_(world), options_(options), say_(say) {}

  /// Collective. What it returns is the same on all ranks.
  measurements run() {
    measure_streams();
    measure_products();
    measure_attention();
    if (options_.collectives && world_.size() > 1) measure_calls();
    return std::move(found_);
  }

 private:
  /// Seconds of one call of f, on the slowest rank; collective.
  template <class F>
  double seconds_of(F&& f) {
    const auto together = [&](extent_t calls) {
      world_.barrier(host_).wait(host_);
      const auto begin = calibration_clock::now();
      for (extent_t i = 0; i < calls; ++i) f();
      e_.wait();
      double seconds = std::chrono::duration<double>(calibration_clock::now() - begin).count();
      world_.all_reduce(host_, std::span<const double>(&seconds, 1), std::span(&seconds, 1), max{}).wait(host_);
      return std::max(seconds, 1e-9);
    };
    together(1);  // libraries choose their algorithms, memory is touched
    extent_t calls = 1;
    double once = together(calls);
    while (once < options_.window / 4 && calls < 1'000'000) {
      calls = std::max(2 * calls, extent_t(double(calls) * options_.window / once));
      once = together(calls);
    }
    for (int i = 0; i < options_.repeats; ++i) once = std::min(once, together(calls));
    return once / double(calls);
  }
  void say(const std::string& line) const {
    if (world_.rank() == 0 && say_) say_(line);
  }
  /// An extent of a product, a multiple of 8.
  extent_t extent(double times) const { return std::max<extent_t>(8, extent_t(std::llround(double(options_.product) * times / 8)) * 8); }

  void measure_streams() {
    const extent_t width = std::max<extent_t>(8, std::min<extent_t>(options_.product, 4096)),
                   rows = std::max<extent_t>(1, options_.stream / (width * extent_t(sizeof(T))));
    const double elements = double(rows * width);
    const auto x = calibration_numbers<T>(e_, {rows, width}, 1), other = calibration_numbers<T>(e_, {rows, width}, 2);
    own<T> y({rows, width});
    const auto gain = calibration_numbers<T>(e_, {width}, 3);
    using A = accumulate_t<T>;
    const auto p = calibration_numbers<A>(e_, {rows}, 4);
    own<A> rstd({rows});
    const double copied = seconds_of([&] { copy(e_, x.view(), y.view()); });
    found_.copy_rate = 2 * elements * sizeof(T) / copied;
    const auto add = [&](const char* name, double bytes, auto f) { found_.streams.push_back({name, bytes, seconds_of(f)}); };
    add("rms_norm", 4 * elements, [&] { rms_norm_forward(e_, x.view(), gain.view(), 1e-5, y.view(), rstd.view()); });
    add("swiglu", 6 * elements, [&] { swiglu_forward(e_, x.view(), other.view(), p.view(), y.view()); });
    add("copy", 4 * elements, [&] { copy(e_, x.view(), y.view()); });
    const own<T> one_row({1, 8});
    own<T> one_out({1, 8});
    found_.launch_seconds = seconds_of([&] { copy(e_, one_row.view(), one_out.view()); });
    found_.barrier_seconds = seconds_of([&] { world_.barrier(host_).wait(host_); });
    const auto rate = [&](std::size_t i) { return 1e-9 * found_.streams[i].bytes / found_.streams[i].seconds; };
    say(printed("memory: copy %.2f GB/s; at 2 bytes an element rms_norm %.2f, swiglu %.2f", 1e-9 * found_.copy_rate, rate(0), rate(1)));
    say(printed("launch %.2f us, barrier of %d ranks %.2f us", 1e6 * found_.launch_seconds, world_.size(), 1e6 * found_.barrier_seconds));
  }

  template <class F>
  void add_product(const char* kind, const product_shape& p, F&& f) {
    const double seconds = seconds_of(f);
    std::string name = sentence(kind, ' ', extent_t(p.groups * p.rows), " x ", extent_t(p.columns), " x ", extent_t(p.depth));
    if (p.groups > 1) name += sentence(" in ", extent_t(p.groups));
    say(printed("%-44s %10.1f us %9.2f GFLOP/s", name.c_str(), 1e6 * seconds, 1e-9 * p.flops() / seconds));
    found_.products.push_back({std::move(name), p, seconds});
  }

  void measure_products() {
    struct relative {
      double rows, columns, depth;
    };
    constexpr relative dense[] = {{1, 1, 1},     {2, 2, 2},      {4, 1, 1},     {1, 4, 1},       {1, 1, 4},      {1, 1, 0.25},
                                  {2, 2, 0.125}, {1, 1, 0.0625}, {0.125, 2, 2}, {0.03125, 2, 1}, {2, 0.03125, 1}};
    for (const relative& r : dense) {
      const extent_t m = extent(r.rows), n = extent(r.columns), k = extent(r.depth);
      const auto a = calibration_numbers<T>(e_, {m, k}, 1), b = calibration_numbers<T>(e_, {n, k}, 2);
      own<T> c({m, n});
      add_product("gemm", {double(m), double(n), double(k)}, [&] { gemm_nt(e_, a.view(), b.view(), c.view()); });
    }
    {  // a weight's gradient: its depth is the rows, and it adds to a sum
      using A = accumulate_t<T>;
      const extent_t m = extent(1), n = extent(1), k = extent(2);
      const auto a = calibration_numbers<T>(e_, {k, m}, 1), b = calibration_numbers<T>(e_, {k, n}, 2);
      auto sum = calibration_numbers<A>(e_, {m, n}, 3);
      add_product("gradient", product_shape{double(k), double(n), double(m)}.of_weight(), [&] {
        if constexpr (std::is_same_v<T, A>)
          gemm_tn(e_, a.view(), b.view(), sum.view(), A(1));
        else
          gemm_tn(e_, a.view(), b.view(), sum.view(), A(1));
      });
    }
    add_grouped(8, extent(0.5), extent(2), extent(1), false);
    add_grouped(8, extent(0.5), extent(2), extent(1), true);
    add_grouped(32, extent(0.0625), extent(0.5), extent(0.5), true);
  }
  /// Rows of the groups equal, or falling as 1 / rank^0.6, which makes every one ragged.
  void add_grouped(extent_t groups, extent_t rows, extent_t n, extent_t k, bool ragged) {
    std::vector<std::int64_t> offsets{0};
    double sum = 0, before = 0;
    const auto share = [&](extent_t g) { return ragged ? std::pow(double(g + 1), -0.6) : 1.0; };
    for (extent_t g = 0; g < groups; ++g) sum += share(g);
    for (extent_t g = 0; g < groups; ++g) offsets.push_back(std::int64_t(std::llround(double(groups * rows) * (before += share(g)) / sum)));
    offsets.back() = groups * rows;
    const auto at = calibration_upload<std::int64_t>(e_, offsets);
    const auto x = calibration_numbers<T>(e_, {groups * rows, k}, 1), w = calibration_numbers<T>(e_, {groups, n, k}, 2);
    own<T> y({groups * rows, n});
    add_product(ragged ? "grouped, ragged" : "grouped", {double(rows), double(n), double(k), double(groups), ragged, true},
                [&] { grouped_gemm_nt(e_, x.view(), w.view(), at.view().span(), y.view()); });
  }

  void measure_attention() {
    using A = accumulate_t<T>;
    const extent_t s = options_.sequence, heads = options_.heads, d = options_.width;
    const shape all{s, 1, heads, d};
    const auto q = calibration_numbers<T>(e_, all, 1), k = calibration_numbers<T>(e_, all, 2), v = calibration_numbers<T>(e_, all, 3),
               dout = calibration_numbers<T>(e_, all, 4);
    own<T> out(all), dq(all), dk(all), dv(all);
    own<A> lse({heads, s});
    std::vector<std::int32_t> order;
    for (extent_t i = 0; i < s; ++i) order.push_back(std::int32_t(i));
    const auto positions = calibration_upload<std::int32_t>(e_, order);
    const auto at = positions.view().span();
    found_.attention_flops = 2 * double(s) * double(s) * double(heads * d);
    own<A> mean({heads, s});
    found_.forward_seconds = seconds_of([&] { flash_forward_to<T>(e_, q.view(), k.view(), v.view(), at, at, {}, out.view(), lse.view()); });
    found_.backward_seconds = seconds_of([&] {
      flash_mean<T>(e_, dout.view(), view<const T>(out), mean.view());
      flash_backward_to<T>(e_, dout.view(), q.view(), k.view(), v.view(), view<const A>(lse), view<const A>(mean), at, at, {}, dq.view(),
                           dk.view(), dv.view());
    });
    say(printed("attention %lld tokens, %lld heads of %lld: forward %.2f GFLOP/s, backward %.2f", static_cast<long long>(s),
                static_cast<long long>(heads), static_cast<long long>(d), 1e-9 * found_.attention_flops / found_.forward_seconds,
                2.5e-9 * found_.attention_flops / found_.backward_seconds));
  }

  void measure_calls() {
    const std::size_t most = options_.largest_message / sizeof(T) * 2;  // all_reduce of two ranks sends as much as it has
    const auto in = calibration_numbers<T>(e_, {extent_t(most)}, 1);
    own<T> out({extent_t(most)});
    std::vector<int> sizes;
    for (int n = 2; n < world_.size(); n *= 2)
      if (options_.every_group && world_.size() % n == 0) sizes.push_back(n);
    sizes.push_back(world_.size());
    for (const int n : sizes) {
      Comm group = world_.split(world_.rank() / n, world_.rank(), "calibrate");
      for (std::size_t bytes = 1024; bytes <= options_.largest_message; bytes *= 4)
        measure_calls(group, bytes, in.view().span(), out.view().span());
    }
  }
  /// Every operation with as many elements that each rank of the group sends about `bytes`.
  void measure_calls(Comm& group, std::size_t bytes, std::span<const T> in, std::span<T> out) {
    const auto n = std::size_t(group.size()), all = std::max<std::size_t>(n, bytes / sizeof(T)),
               each = std::max<std::size_t>(1, all / (n - 1));
    const std::vector<std::size_t> counts(n, each);
    std::string line = printed("%2zu ranks, each sends %9s:", n, bytes_text(std::int64_t(bytes)).c_str());
    const auto add = [&](operation op, std::size_t count, auto f) {
      const double seconds = seconds_of(f);
      const double sent = double(bytes_sent(op, n, count, sizeof(T)));
      found_.calls.push_back({op, extent_t(n), sent, seconds});
      line += printed(" %s %.2f GB/s", name_of(op), 1e-9 * sent / seconds);
    };
    add(operation::all_gather, each, [&] { group.all_gather(e_, in.first(each), out.first(each * n)).wait(e_); });
    add(operation::reduce_scatter, each, [&] { group.reduce_scatter(e_, in.first(each * n), out.first(each), sum{}).wait(e_); });
    add(operation::all_to_all_v, each * (n - 1), [&] {
      group
          .all_to_all_v(e_, in.first(each * n), std::span<const std::size_t>(counts), out.first(each * n),
                        std::span<const std::size_t>(counts))
          .wait(e_);
    });
    const std::size_t whole = std::min(in.size(), all * n / (2 * (n - 1)));
    add(operation::all_reduce, whole, [&] { group.all_reduce(e_, in.first(whole), out.first(whole), sum{}).wait(e_); });
    const int peer = group.rank() ^ 1;
    add(operation::send, all, [&] {
      if (peer >= group.size()) return;
      group.send(e_, in.first(all), peer).wait(e_);
      group.recv(e_, out.first(all), peer).wait(e_);
    });
    say(line);
  }

  Exec e_;
  host_exec host_;
  Comm& world_;
  const calibration_options& options_;
  const calibration_progress& say_;
  measurements found_;
};

}  // namespace detail

/// A cluster of one node, and what it was made from.
struct calibration {
  stored_cluster cluster;
  measurements measured;
  double seconds = 0;  // that it took
};

/// Threads that measure if nothing else is asked for.
inline int calibration_ranks(const calibration_options& options) {
  return options.ranks > 0 ? options.ranks : std::max(2, int(std::thread::hardware_concurrency()));
}

/// The host, its ranks as threads in fp32. say: a line for each measurement.
inline calibration calibrate(const calibration_options& options = {}, const calibration_progress& say = {}) {
  const int ranks = calibration_ranks(options), cores = std::max(1, int(std::thread::hardware_concurrency()));
  const auto begin = detail::calibration_clock::now();
  measurements found;
  run_threads(ranks, [&](thread_comm& world) {
    host_context context;
    const host_exec e(context);
    const bool first = world.rank() == 0;
    measurements own = detail::calibrator<float, host_exec, thread_comm>(e, e, world, options, say).run();
    if (first) found = std::move(own);
  });
  cluster_spec base = laptop;
  base.gpu.bf16_flops = base.gpu.hbm_bytes = 0;
  base.gpus_per_node = ranks;
  const double memory = double(::sysconf(_SC_PHYS_PAGES)) * double(::sysconf(_SC_PAGESIZE));
  base.gpu.memory = std::max<extent_t>(gibibyte / 4, extent_t(memory / ranks));
  if (2 * ranks > cores) base.efficiency.hide_dp = base.efficiency.hide_shards = 0;  // no core is left for what travels beside
  const std::string note =
      sentence("measured by moefold: ", ranks, " ranks as threads at the same time on ", cores, cores == 1 ? " core" : " cores",
               ", fp32; the peak is the fastest product; failures and storage are priors");
  const double seconds = std::chrono::duration<double>(detail::calibration_clock::now() - begin).count();
  return {stored_cluster(fitted(base, found), sentence("this-host-", ranks), "core of this host", note), std::move(found), seconds};
}

/// Every product beside what the planner's formula says of it with the fitted constants.
inline text_table table_of_products(const calibration& c) {
  text_table table({"product", "measured us", "formula us", "ratio"});
  for (const timed_product& p : c.measured.products) {
    const double formula = seconds_of(p.shape, c.cluster.spec());
    table.row({p.name, detail::printed("%.1f", 1e6 * p.seconds), detail::printed("%.1f", 1e6 * formula),
               detail::printed("%.2f", formula / p.seconds)});
  }
  return table;
}
/// The constants, in one paragraph.
inline std::string describe(const calibration& c) {
  const cluster_spec& s = c.cluster.spec();
  const efficiency_spec& e = s.efficiency;
  std::string text =
      detail::printed("peak %.2f GFLOP/s; products reach %.0f %% of it, half of that at a depth of %.0f, in groups %.0f %% of that\n",
                      1e-9 * s.gpu.bf16_flops, 100 * e.gemm, e.half_depth, 100 * e.grouped);
  text += detail::printed("their formula is wrong by %.0f %% (median)\n", 100 * product_error(c.measured.products, s));
  text += detail::printed("memory %.2f GB/s, of which kernels reach %.0f %%; launch %.2f us\n", 1e-9 * s.gpu.hbm_bytes, 100 * e.hbm,
                          1e6 * e.launch);
  text += detail::printed("attention reaches %.1f %% of the peak forward, %.1f %% backward\n", 100 * e.attention_forward,
                          100 * e.attention_backward);
  if (s.inside.curve.known())
    text += detail::printed("between ranks: %.1f us for small messages, %.2f GB/s for large ones (%d points)\n", 1e6 * s.inside.latency,
                            1e-9 * s.inside.bandwidth, s.inside.curve.points);
  return text;
}

}  // namespace moefold
