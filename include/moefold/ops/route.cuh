#pragma once
// The CUDA twin of ops/route.hpp: a warp for a token, its logits and scores in shared memory. Forward is one launch for all tokens, and a small one that
// adds up what the blocks counted, in their order: the same bits every time. Backward is one launch.
//
//   block (part, sequence): tokens of one sequence, every parts-th group of them    counts, aux counts and sums of aux scores in shared memory
//   lane l of a warp owns the columns l, l + 32, ..                                 its sum of a row is its columns', then the warp's tree
#include <moefold/ops/route.hpp>
#include <moefold/ops/top_k.cuh>

namespace moefold {

namespace kernel {

inline constexpr unsigned long long one_more = 1;

/// The lane's columns: f(c).
template <class F>
__device__ inline void own_columns(int width, F f) {
  for (int c = int(threadIdx.x) % warp_lanes; c < width; c += warp_lanes) f(c);
}
template <class A>
__device__ inline A warp_largest(const A* row, int width) {
  A most = -std::numeric_limits<A>::infinity();
  own_columns(width, [&](int c) { most = most < row[c] ? row[c] : most; });
  return warp_max(most);
}

/// What aux scores of a row need: a[c] = term(c) * by; and logsumexp of the logits.
template <class A>
struct aux_row {
  const A* logit;
  bool sigmoid;
  A top, by, lse;

  __device__ aux_row(const route_rule& rule, const A* row, int experts) : logit(row), sigmoid(rule.score == score_function::sigmoid) {
    top = warp_largest(row, experts);
    A sum = A(0), shares = A(0);
    own_columns(experts, [&](int c) { sum += exp_of(row[c] - top); });
    sum = warp_sum(sum);
    by = A(1) / sum;
    if (sigmoid) {
      own_columns(experts, [&](int c) { shares += logistic(row[c]); });
      by = A(1) / (warp_sum(shares) + A(1e-20));
    }
    lse = top + A(std::log(double(sum)));
  }
  __device__ A operator()(int c) const { return (sigmoid ? logistic(logit[c]) : exp_of(logit[c] - top)) * by; }
};

/// Weights of the chosen experts of a row; chosen: readable by all lanes.
template <class A>
__device__ inline void weigh_row(const route_rule& rule, const A* logit, int experts, const std::int32_t* chosen, A* weight) {
  const int k = int(rule.top_k);
  const A scale = A(rule.scale);
  A sum = A(0), by = scale, top = A(0);
  if (rule.score == score_function::sigmoid) {
    own_columns(k, [&](int j) { sum += logistic(logit[chosen[j]]); });
    sum = warp_sum(sum);
    if (k > 1) by = scale / (sum + A(1e-20));
    own_columns(k, [&](int j) { weight[j] = logistic(logit[chosen[j]]) * by; });
    return;
  }
  if (rule.score == score_function::softmax_before) {
    top = warp_largest(logit, experts);
    own_columns(experts, [&](int c) { sum += exp_of(logit[c] - top); });
  } else {
    top = logit[chosen[0]];
    own_columns(k, [&](int j) { top = top < logit[chosen[j]] ? logit[chosen[j]] : top; });
    top = warp_max(top);
    own_columns(k, [&](int j) { sum += exp_of(logit[chosen[j]] - top); });
  }
  by = scale / warp_sum(sum);
  own_columns(k, [&](int j) { weight[j] = exp_of(logit[chosen[j]] - top) * by; });
}

/// Choosing scores of a row; `free`: what the scores alone say, without bias and groups.
template <class A>
__device__ inline void score_row(const route_rule& rule, const A* logit, const A* bias, int experts, bool free, A* score, A* group) {
  const bool sigmoid = rule.score == score_function::sigmoid;
  own_columns(experts, [&](int c) {
    const A s = sigmoid ? logistic(logit[c]) : logit[c];
    score[c] = free || bias == nullptr ? s : s + bias[c];
  });
  __syncwarp();
  if (free || rule.chosen_groups == rule.groups) return;
  const int groups = int(rule.groups), each = experts / groups, best = int(rule.top_k / rule.chosen_groups);
  own_columns(groups, [&](int g) {
    detail::ranked<A> last;
    A sum = A(0);
    for (int i = 0; i < best; ++i) {
      detail::ranked<A> next;
      for (int c = g * each; c < (g + 1) * each; ++c)
        if (const detail::ranked<A> here{score[c], c}; (last.index < 0 || last.before(here)) && here.before(next)) next = here;
      sum += next.value;
      last = next;
    }
    group[g] = sum;
  });
  __syncwarp();
  own_columns(groups, [&](int g) {
    int better = 0;
    for (int other = 0; other < groups; ++other) better += detail::ranked<A>{group[other], other}.before(detail::ranked<A>{group[g], g});
    if (better < rule.chosen_groups) return;
    for (int c = g * each; c < (g + 1) * each; ++c) score[c] = -std::numeric_limits<A>::infinity();
  });
  __syncwarp();
}

/// Sums of one block each, [.., blocks of the launch]: what finish_route adds up.
struct route_parts {
  extent_t batch;
  int experts, parts;   // blocks of one sequence
  std::int32_t* count;  // [B, E + 1, parts]
  std::int32_t* aux;    // [E, B * parts] or null
  double* score_sum;    // [B, E, parts] or null
  double* squares;      // [B * parts] or null

  MOEFOLD_HD extent_t blocks() const { return batch * parts; }
};

/// Bytes of shared memory of a block with this many warps: sums, then rows of logits and scores, groups, then counts and choices.
template <class A>
struct route_shared {
  std::size_t sums, rows, counts, bytes;
  route_shared(const route_rule& rule, extent_t experts, int warps, bool with_sums) {
    sums = with_sums ? std::size_t(warps) * std::size_t(experts + 1) * sizeof(double) : 0;
    rows = sums + std::size_t(warps) * std::size_t(2 * experts + rule.groups) * sizeof(A);
    counts = rows + std::size_t(2 * experts + 1) * sizeof(std::int32_t);
    bytes = counts + std::size_t(warps) * std::size_t(rule.top_k) * sizeof(std::int32_t);
  }
};

template <class A, int Threads>
__global__ void __launch_bounds__(Threads)
    route_forward(route_rule rule, extent_t n, const A* __restrict__ logits, const A* __restrict__ bias,
                  const std::uint8_t* __restrict__ padding, route_parts parts, std::int32_t* __restrict__ expert, A* __restrict__ weight,
                  A* __restrict__ scores) {
  constexpr int warps = Threads / warp_lanes;
  const int experts = parts.experts, k = int(rule.top_k), groups = int(rule.groups);
  const int thread = int(threadIdx.x), lane = thread % warp_lanes, warp = thread / warp_lanes;
  const bool sums = parts.score_sum != nullptr, corrected = bias != nullptr || rule.chosen_groups < rule.groups;
  double* const all_sums = dynamic_shared<double>();                                    // [warps, E + 1], the last: squares
  A* const rows = reinterpret_cast<A*>(all_sums + (sums ? warps * (experts + 1) : 0));  // [warps, 2 E + G]
  std::int32_t* const count = reinterpret_cast<std::int32_t*>(rows + warps * (2 * experts + groups));
  std::int32_t* const aux = count + experts + 1;
  std::int32_t* const chosen = aux + experts + warp * k;
  double* const sum = all_sums + warp * (experts + 1);
  A* const logit = rows + warp * (2 * experts + groups);
  A* const score = logit + experts;
  A* const group = score + experts;

  for (int c = thread; c < 2 * experts + 1; c += Threads) count[c] = 0;
  if (sums) own_columns(experts + 1, [&](int c) { sum[c] = 0; });
  __syncthreads();
  const extent_t batch = parts.batch, sequence = blockIdx.y, step = extent_t(parts.parts) * warps;
  for (extent_t i = extent_t(blockIdx.x) * warps + warp; i * batch + sequence < n; i += step) {
    const extent_t t = i * batch + sequence;
    own_columns(experts, [&](int c) { logit[c] = logits[t * experts + c]; });
    __syncwarp();
    score_row(rule, logit, bias, experts, false, score, group);
    if (scores != nullptr) own_columns(experts, [&](int c) { scores[t * experts + c] = score[c]; });
    detail::ranked<A> last;
    for (int j = 0; j < k; ++j) {
      last = warp_best(score, experts, last);
      if (lane == 0) chosen[j] = last.index, expert[t * k + j] = last.index;
    }
    __syncwarp();
    weigh_row(rule, logit, experts, chosen, weight + t * k);
    if (padding == nullptr || padding[t] == 0) {
      own_columns(k, [&](int j) {
        atomicAdd(&count[chosen[j]], 1);
        if (!corrected) atomicAdd(&aux[chosen[j]], 1);
      });
      if (lane == 0) atomicAdd(&count[experts], 1);
      if (corrected && parts.aux != nullptr) {
        score_row(rule, logit, bias, experts, true, score, group);
        last = {};
        for (int j = 0; j < k; ++j) {
          last = warp_best(score, experts, last);
          if (lane == 0) atomicAdd(&aux[last.index], 1);
        }
      }
      if (sums) {
        const aux_row<A> a(rule, logit, experts);
        own_columns(experts, [&](int c) { sum[c] += double(a(c)); });
        if (lane == experts % warp_lanes) sum[experts] += double(a.lse) * double(a.lse);
      }
    }
    __syncwarp();  // the rows are written again
  }
  __syncthreads();
  const extent_t block = sequence * parts.parts + blockIdx.x;
  for (int c = thread; c < experts + 1; c += Threads) {
    parts.count[(sequence * (experts + 1) + c) * parts.parts + blockIdx.x] = count[c];
    if (parts.aux != nullptr && c < experts) parts.aux[c * parts.blocks() + block] = aux[c];
    if (!sums) continue;
    double total = 0;
    for (int w = 0; w < warps; ++w) total += all_sums[w * (experts + 1) + c];
    if (c < experts)
      parts.score_sum[(sequence * experts + c) * parts.parts + blockIdx.x] = total;
    else
      parts.squares[block] = total;
  }
}

/// A warp for a number: lanes add every 32nd part, the warp adds the lanes.
template <int Threads>
__global__ void __launch_bounds__(Threads)
    finish_route(route_parts parts, std::int64_t* counts, std::int64_t* aux_counts, double* score_sum, double* squares) {
  extent_t i = (extent_t(blockIdx.x) * Threads + threadIdx.x) / warp_lanes;
  const auto total = [](const auto* from, extent_t count, auto zero) {
    for (extent_t p = extent_t(threadIdx.x) % warp_lanes; p < count; p += warp_lanes) zero += from[p];
    return warp_sum(zero);
  };
  const bool speaks = threadIdx.x % warp_lanes == 0;
  if (const extent_t size = parts.batch * (parts.experts + 1); i < size) {
    const std::int64_t sum = total(parts.count + i * parts.parts, parts.parts, std::int64_t(0));
    if (speaks) counts[i] = sum;
    return;
  } else {
    i -= size;
  }
  if (aux_counts != nullptr) {
    if (i < parts.experts) {
      const std::int64_t sum = total(parts.aux + i * parts.blocks(), parts.blocks(), std::int64_t(0));
      if (speaks) aux_counts[i] = sum;
      return;
    }
    i -= parts.experts;
  }
  if (score_sum == nullptr || i > parts.batch * parts.experts) return;
  if (i < parts.batch * parts.experts) {
    const double sum = total(parts.score_sum + i * parts.parts, parts.parts, 0.0);
    if (speaks) score_sum[i] = sum;
  } else {
    const double sum = total(parts.squares, parts.blocks(), 0.0);
    if (speaks) squares[0] = sum;
  }
}

/// Whether all k choices are experts; complains of the first that is none.
__device__ inline bool choices_hold(const std::int32_t* chosen, int k, int experts, extent_t token, device_fault* faults) {
  bool hold = true;
  for (int j = 0; j < k; ++j)
    if (chosen[j] < 0 || chosen[j] >= experts) {
      if (hold && threadIdx.x % warp_lanes == 0) report(faults, fault_kind::expert, token, chosen[j], experts);
      hold = false;
    }
  return hold;
}

template <class A, int Threads>
__global__ void __launch_bounds__(Threads)
    route_weights(route_rule rule, extent_t n, int experts, const A* __restrict__ logits, const std::int32_t* __restrict__ expert,
                  A* __restrict__ weight, device_fault* faults) {
  const extent_t t = (extent_t(blockIdx.x) * Threads + threadIdx.x) / warp_lanes;
  if (t >= n) return;
  const int k = int(rule.top_k);
  if (choices_hold(expert + t * k, k, experts, t, faults))
    weigh_row(rule, logits + t * experts, experts, expert + t * k, weight + t * k);
  else
    own_columns(k, [&](int j) { weight[t * k + j] = A(0); });
}

template <int Threads>
__global__ void __launch_bounds__(Threads)
    count_choices(const std::int32_t* __restrict__ expert, const std::uint8_t* __restrict__ padding, extent_t slots, int k, extent_t batch,
                  extent_t experts, unsigned long long* __restrict__ counts, device_fault* faults) {
  const extent_t s = extent_t(blockIdx.x) * Threads + threadIdx.x;
  if (s >= slots) return;
  const extent_t t = s / k;
  if (padding != nullptr && padding[t] != 0) return;
  unsigned long long* const row = counts + t % batch * (experts + 1);
  const std::int32_t c = expert[s];
  if (c < -1 || c >= experts)
    report(faults, fault_kind::expert, t, c, experts);
  else if (c >= 0)
    atomicAdd(&row[c], one_more);  // integers: any order gives the same sum
  if (s % k == 0) atomicAdd(&row[experts], one_more);
}

template <class A, int Threads>
__global__ void __launch_bounds__(Threads)
    route_backward(route_rule rule, extent_t n, int experts, const A* __restrict__ dweight, const A* __restrict__ logits,
                   const std::int32_t* __restrict__ expert, const A* __restrict__ weight, const std::uint8_t* __restrict__ padding,
                   const A* __restrict__ pull, extent_t batch, double z, A* __restrict__ dlogits, device_fault* faults) {
  const int lane = int(threadIdx.x) % warp_lanes, warp = int(threadIdx.x) / warp_lanes, k = int(rule.top_k);
  A* const logit = dynamic_shared<A>() + warp * 2 * experts;
  A* const out = logit + experts;
  const extent_t t = extent_t(blockIdx.x) * (Threads / warp_lanes) + warp;
  if (t >= n) return;  // a whole warp
  own_columns(experts, [&](int c) { logit[c] = logits[t * experts + c], out[c] = A(0); });
  __syncwarp();
  const A* const dw = dweight + t * k;
  const A* const w = weight + t * k;
  const std::int32_t* const chosen = expert + t * k;
  const A scale = A(rule.scale);
  const bool sigmoid = rule.score == score_function::sigmoid;
  const auto to_chosen = [&](auto gradient) {  // by the lane that owns the column
    for (int j = 0; j < k; ++j)
      if (chosen[j] % warp_lanes == lane) out[chosen[j]] += gradient(j);
  };
  if (choices_hold(chosen, k, experts, t, faults)) {
    A along = A(0);  // sum of dw_j * w_j / scale
    own_columns(k, [&](int j) { along += dw[j] * w[j] / scale; });
    along = warp_sum(along);
    if (rule.score == score_function::softmax_after) {
      to_chosen([&](int j) { return w[j] * (dw[j] - along); });
    } else if (rule.score == score_function::softmax_before) {
      const aux_row<A> a(rule, logit, experts);
      own_columns(experts, [&](int c) { out[c] = -scale * along * a(c); });
      to_chosen([&](int j) { return w[j] * dw[j]; });
    } else {
      A sum = A(0);
      own_columns(k, [&](int j) { sum += logistic(logit[chosen[j]]); });
      sum = warp_sum(sum);
      to_chosen([&](int j) {
        const A s = logistic(logit[chosen[j]]);
        const A ds = k > 1 ? scale * (dw[j] - along) / (sum + A(1e-20)) : scale * dw[j];
        return ds * s * (A(1) - s);
      });
    }
  }
  if ((pull != nullptr || z != 0) && (padding == nullptr || padding[t] == 0)) {
    const aux_row<A> a(rule, logit, experts);
    if (pull != nullptr) {
      const A* const g = pull + t % batch * experts;
      A mean = A(0);
      own_columns(experts, [&](int c) { mean += g[c] * a(c); });
      mean = warp_sum(mean);
      own_columns(experts, [&](int c) {
        const A along = (g[c] - mean) * a(c);
        out[c] += sigmoid ? along * (A(1) - logistic(logit[c])) : along;
      });
    }
    if (z != 0) {
      const A twice = A(2 * z) * a.lse;
      own_columns(experts, [&](int c) { out[c] += twice * exp_of(logit[c] - a.lse); });
    }
  }
  own_columns(experts, [&](int c) { dlogits[t * experts + c] = out[c]; });
}

}  // namespace kernel

struct route_tuning {
  int threads = 256;       // eight tokens at once
  int blocks = 528;        // four for each multiprocessor of an H100; more only make more parts to add up
  int small_threads = 64;  // where so many experts leave shared memory for two tokens only
};

namespace detail {

/// f(std::integral_constant<int, threads>): as many threads as leave their rows room in shared memory.
template <route_tuning Tune, class Bytes, class F>
void with_route_threads(const char* op, extent_t experts, Bytes bytes, F f) {
  constexpr std::size_t most = 160 * 1024;  // what a block may have on sm_80 and sm_90
  if (bytes(Tune.threads / warp_lanes) <= most) return f(std::integral_constant<int, Tune.threads>{});
  require(bytes(Tune.small_threads / warp_lanes) <= most, "moefold: ", op, " on a device keeps the scores of ", experts,
          " experts in shared memory, too many for it");
  f(std::integral_constant<int, Tune.small_threads>{});
}

}  // namespace detail

/// Two launches.
template <class A, route_tuning Tune = route_tuning{}>
void route_forward(cuda_exec e, const route_rule& rule, const std::type_identity_t<route_inputs<A>>& in, const route_outputs<A>& out) {
  detail::require_route<A>(rule, in, out);
  require(in.batch <= 65535, "moefold: route_forward on a device takes up to 65535 sequences, given ", in.batch);
  const extent_t n = rows_of(in.logits), experts = cols_of(in.logits), longest = (n + in.batch - 1) / in.batch;
  const bool sums = !out.score_sum.empty(), aux = !out.aux_counts.empty();
  const auto bytes = [&](int warps) { return kernel::route_shared<A>(rule, experts, warps, sums).bytes; };
  detail::with_route_threads<Tune>("route_forward", experts, bytes, [&](auto threads) {
    constexpr int warps = threads() / warp_lanes;
    const extent_t needed = (longest + warps - 1) / warps, most = std::max<extent_t>(1, Tune.blocks / in.batch);
    scratch<cuda_exec> local(e);
    kernel::route_parts parts{in.batch, int(experts), int(std::clamp<extent_t>(needed, 1, most)), nullptr, nullptr, nullptr, nullptr};
    parts.count = local.template take<std::int32_t>(in.batch, experts + 1, parts.parts).data();
    if (aux) parts.aux = local.template take<std::int32_t>(experts, parts.blocks()).data();
    if (sums) parts.score_sum = local.template take<double>(in.batch, experts, parts.parts).data();
    if (sums) parts.squares = local.template take<double>(parts.blocks()).data();
    launch(e, "route_forward", kernel::route_forward<A, threads()>, dim3(unsigned(parts.parts), unsigned(in.batch)), unsigned(threads()),
           bytes(warps), rule, n, in.logits.data(), in.bias.empty() ? nullptr : in.bias.data(),
           in.padding.empty() ? nullptr : in.padding.data(), parts, out.expert.data(), out.weight.data(),
           out.scores.empty() ? nullptr : out.scores.data());
    const extent_t numbers = in.batch * (experts + 1) + (aux ? experts : 0) + (sums ? in.batch * experts + 1 : 0);
    launch(e, "route_forward", kernel::finish_route<Tune.threads>, dim3(blocks_for("route_forward", numbers, Tune.threads / warp_lanes)),
           Tune.threads, 0, parts, out.counts.data(), aux ? out.aux_counts.data() : nullptr, sums ? out.score_sum.data() : nullptr,
           sums ? out.squares.data() : nullptr);
  });
}

template <class A, route_tuning Tune = route_tuning{}>
void route_weights(cuda_exec e, const route_rule& rule, input<A> logits, view<const std::int32_t> expert, view<A> weight) {
  const extent_t n = rows_of(weight), experts = cols_of(logits), k = rule.top_k;
  require_matrix("route_weights", "logits", logits, n, experts);
  require_matrix("route_weights", "expert", expert, n, k);
  require_matrix("route_weights", "weight", weight, n, k);
  launch(e, "route_weights", kernel::route_weights<A, Tune.threads>, dim3(blocks_for("route_weights", n, Tune.threads / warp_lanes)),
         Tune.threads, 0, rule, n, int(experts), logits.data(), expert.data(), weight.data(), e.context->faults.device());
}

template <route_tuning Tune = route_tuning{}>
void count_choices(cuda_exec e, view<const std::int32_t> expert, view<const std::uint8_t> padding, view<std::int64_t> counts) {
  const extent_t n = rows_of(expert), k = cols_of(expert), batch = rows_of(counts), experts = cols_of(counts) - 1;
  detail::require_padding("count_choices", padding, n);
  cuda_check(cudaMemsetAsync(counts.data(), 0, counts.bytes(), e.stream), "count_choices: clearing ", counts.bytes(), " bytes");
  launch(e, "count_choices", kernel::count_choices<Tune.threads>, dim3(blocks_for("count_choices", n * k, Tune.threads)), Tune.threads, 0,
         expert.data(), padding.empty() ? nullptr : padding.data(), n * k, int(k), batch, experts,
         reinterpret_cast<unsigned long long*>(counts.data()), e.context->faults.device());
}

/// One launch. The choices of a token are distinct.
template <class A, route_tuning Tune = route_tuning{}>
void route_backward(cuda_exec e, const route_rule& rule, input<A> dweight, input<A> logits, view<const std::int32_t> expert,
                    input<A> weight, std::span<const std::uint8_t> padding, input<A> pull, double z, view<A> dlogits) {
  const extent_t n = rows_of(dlogits), experts = cols_of(dlogits), k = rule.top_k, batch = pull.empty() ? 1 : rows_of(pull);
  require_matrix("route_backward", "dweight", dweight, n, k);
  require_matrix("route_backward", "logits", logits, n, experts);
  require_matrix("route_backward", "expert", expert, n, k);
  require_matrix("route_backward", "weight", weight, n, k);
  if (!pull.empty()) require_matrix("route_backward", "pull", pull, batch, experts);
  detail::require_padding("route_backward", padding, n);
  const auto bytes = [&](int warps) { return std::size_t(warps) * std::size_t(2 * experts) * sizeof(A); };
  detail::with_route_threads<Tune>("route_backward", experts, bytes, [&](auto threads) {
    constexpr int warps = threads() / warp_lanes;
    launch(e, "route_backward", kernel::route_backward<A, threads()>, dim3(blocks_for("route_backward", n, warps)), unsigned(threads()),
           bytes(warps), rule, n, int(experts), dweight.data(), logits.data(), expert.data(), weight.data(),
           padding.empty() ? nullptr : padding.data(), pull.empty() ? nullptr : pull.data(), batch, z, dlogits.data(),
           e.context->faults.device());
  });
}

}  // namespace moefold
