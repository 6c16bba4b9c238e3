#pragma once
// The best mappings of a job: every legal one of a stated space is looked at, those that do not fit are put aside with the reason, the others are ranked by
// the time of a step. The two halves of a mapping (attention, experts) are proved legal once each, not once per pair: 1,024 GPUs take under a second.
//
//   pp, tp, cp       divisors of the GPUs, dp the rest                   etp, ep    divisors of the ranks of a stage, edp the rest
//   vpp              1, and every v with equally many layers in each of the pp * v chunks
//   micro_batch      divisors of global batch / dp, up to 16 sequences
//   recompute        none; norms and activation; norms, activation and core attention; full: the first of these that fits, since each takes longer
// A number that is fixed is taken as it is, also outside this space.
#include <moefold/core/text_table.hpp>
#include <moefold/plan/cost.hpp>

#include <algorithm>
#include <chrono>
#include <map>
#include <string>
#include <vector>

namespace moefold {

/// What is asked of a search. In `fixed`, 0 leaves a number free.
struct search_options {
  plan_mapping fixed{0, 0, 0, 0, 0, 0, 0, 0, 0};
  bool fix_recompute = false;  // take fixed.recompute
  std::size_t top = 10;        // plans that are returned
  std::size_t near = 10;       // mappings that miss the memory by least and are returned with the reason
  bool exhaustive = false;     // cost every recompute rule that fits: to show that it makes no difference
};

/// A mapping, or a part of one (numbers that play no part are 0), and why it is not among the plans.
struct refused_mapping {
  plan_mapping mapping{};
  std::string reason;
  std::size_t mappings = 1;  // how many it stands for
  extent_t need = 0;         // bytes, where it does not fit
};

struct search_result {
  std::vector<prediction> plans;         // best first
  std::vector<refused_mapping> refused;  // first those the rules forbid, then those that do not fit, the nearest first
  std::size_t legal = 0, fitting = 0, costed = 0;
  double seconds = 0;
};

namespace detail {

inline std::vector<extent_t> divisors(extent_t n) {
  std::vector<extent_t> low, high;
  for (extent_t d = 1; d * d <= n; ++d)
    if (n % d == 0) {
      low.push_back(d);
      if (d != n / d) high.push_back(n / d);
    }
  low.insert(low.end(), high.rbegin(), high.rend());
  return low;
}
/// The divisors of n, or the one number that is fixed.
inline std::vector<extent_t> choices(extent_t fixed, extent_t n) { return fixed > 0 ? std::vector<extent_t>{fixed} : divisors(n); }

inline constexpr std::array<recompute_rule, 4> searched_rules = {
    recompute_none, selective<recompute_part::norms, recompute_part::activation>,
    selective<recompute_part::norms, recompute_part::activation, recompute_part::core_attention>, recompute_full};

/// Collects reasons: alike ones stand once, for the first mapping, with their number.
class refusals {
 public:
  void add(const plan_mapping& m, std::string reason) {
    const std::string kind = reason.substr(0, reason.find(" (given"));
    const auto [at, fresh] = index_.emplace(kind, list_.size());
    if (fresh)
      list_.push_back({m, std::move(reason), 1});
    else
      ++list_[at->second].mappings;
  }
  std::vector<refused_mapping> take() { return std::move(list_); }

 private:
  std::map<std::string, std::size_t> index_;
  std::vector<refused_mapping> list_;
};

}  // namespace detail

/// f(mapping) for every legal mapping of the space, its recompute rule still none; refused(mapping, reason) for halves that are not legal.
template <class F, class Refused>
void for_each_mapping(const plan_job& job, const plan_mapping& fixed, F&& f, Refused&& refused) {
  const bool tied = ties_experts(job.strategy);
  std::vector<plan_mapping> attention;
  for (const extent_t pp : detail::choices(fixed.pp, job.gpus)) {
    if (pp > job.model.layers && fixed.pp == 0) continue;
    attention.clear();
    const extent_t inside = job.gpus / std::max<extent_t>(1, pp);
    if (inside == 0 || inside * pp != job.gpus) {
      plan_mapping m;
      m.pp = pp;
      refused(m, sentence("moefold: PP must divide the ", job.gpus, " GPUs (given ", pp, "); take one of their divisors"));
      continue;
    }
    for (const extent_t tp : detail::choices(fixed.tp, inside))
      for (const extent_t cp : detail::choices(fixed.cp, std::max<extent_t>(1, inside / tp))) {
        plan_mapping m;
        m.tp = tp, m.cp = cp, m.pp = pp, m.dp = fixed.dp > 0 ? fixed.dp : inside / (tp * cp);
        m.etp = tied ? tp : 1, m.ep = 1, m.edp = tied ? inside / tp : inside;
        if (m.gpus() != job.gpus) {
          refused(m, sentence("moefold: TP*CP*DP*PP must be the ", job.gpus, " GPUs (given ", tp, " * ", cp, " * ", m.dp, " * ", pp, ")"));
          continue;
        }
        if (const std::string reason = refusal(job, m); !reason.empty()) {
          refused(m, reason);
          continue;
        }
        for (const extent_t vpp : fixed.vpp > 0 || pp == 1 || job.schedule != plan_schedule::one_f_one_b
                                      ? std::vector<extent_t>{std::max<extent_t>(1, fixed.vpp)}
                                      : detail::divisors(job.model.layers % pp == 0 ? job.model.layers / pp : 1))
          for (const extent_t b : detail::choices(fixed.micro_batch, std::max<extent_t>(1, job.global_batch / m.dp))) {
            if (b > 16 && fixed.micro_batch == 0) break;
            m.vpp = vpp, m.micro_batch = b;
            if (const std::string why = vpp > 1 || b > 1 ? refusal(job, m) : std::string(); why.empty())
              attention.push_back(m);
            else
              refused(m, why);
          }
      }
    std::map<std::pair<extent_t, extent_t>, bool> known;  // (etp, ep) of this pp: legal where the other half is
    for (plan_mapping& m : attention)
      for (const extent_t etp : tied ? detail::choices(fixed.etp, 1) : detail::choices(fixed.etp, inside)) {
        const extent_t own = tied && fixed.etp == 0 ? m.tp : etp;
        for (const extent_t ep : detail::choices(fixed.ep, tied ? m.dp : std::max<extent_t>(1, inside / own))) {
          plan_mapping whole = m;
          whole.etp = own, whole.ep = ep, whole.edp = fixed.edp > 0 ? fixed.edp : std::max<extent_t>(1, inside / (own * ep));
          const auto at = tied ? known.end() : known.find({own, ep});
          if (at != known.end()) {
            if (at->second) f(whole);
            continue;
          }
          const std::string reason = refusal(job, whole);
          if (!tied) known.emplace(std::pair(own, ep), reason.empty());
          if (reason.empty())
            f(whole);
          else
            refused(whole, reason);
        }
      }
  }
}

/// The best plans. Precision: the policy that the run computes in. Throws config_error where the job itself is not sound.
template <class Precision>
search_result search(const plan_job& job, const cluster_spec& cluster, const search_options& options = {}) {
  const auto start = std::chrono::steady_clock::now();
  check(job.model), check(job.facts);
  require<config_error>(job.gpus >= 1 && job.gpus <= extent_t{1} << 20, "moefold: a plan is for 1 to 1048576 GPUs (given ", job.gpus, ")");
  const plan_mapping& f = options.fixed;
  for (const extent_t number : {f.tp, f.cp, f.dp, f.pp, f.etp, f.ep, f.edp, f.vpp, f.micro_batch})
    require<config_error>(number >= 0 && number <= extent_t{1} << 20,
                          "moefold: a number that is held lies between 1 and 1048576, 0 leaves it free (given ", number, ")");
  search_result result;
  detail::refusals forbidden;
  std::vector<std::pair<double, plan_mapping>> best;  // seconds, the `top` smallest, ascending
  std::vector<std::pair<extent_t, refused_mapping>> large;
  const std::span<const recompute_rule> rules = options.fix_recompute ? std::span<const recompute_rule>(&options.fixed.recompute, 1)
                                                                      : std::span<const recompute_rule>(detail::searched_rules);
  const auto rank = [&](const plan_mapping& m, const plan_memory& memory) {
    ++result.costed;
    const double seconds = predict<Precision>(job, cluster, m, memory).step_seconds;
    const auto at = std::upper_bound(best.begin(), best.end(), seconds, [](double s, const auto& b) { return s < b.first; });
    if (best.size() >= options.top && at == best.end()) return;
    best.insert(at, {seconds, m});
    if (best.size() > options.top) best.pop_back();
  };
  const auto put_aside = [&](const plan_mapping& m, const plan_memory& memory, extent_t need) {
    const auto at = std::upper_bound(large.begin(), large.end(), need, [](extent_t n, const auto& l) { return n < l.first; });
    if (large.size() >= options.near && at == large.end()) return;
    large.insert(at, {need,
                      {m,
                       sentence("it needs ", gigabytes_text(double(need)), " on a GPU of stage ", memory.stage, ", ",
                                gigabytes_text(double(need - cluster.gpu.memory)), " more than there is"),
                       1, need}});
    if (large.size() > options.near) large.pop_back();
  };
  const auto consider = [&](plan_mapping m) {  // with the first rule that fits: the others keep less and take longer
    ++result.legal;
    bool fits = false;
    for (const recompute_rule& rule : rules) {
      m.recompute = rule;
      const plan_memory memory = memory_of<Precision>(job, m);
      const extent_t need = memory.total() + cluster.reserved;
      const bool now = need <= cluster.gpu.memory;
      if (now && (!fits || options.exhaustive)) rank(m, memory);
      fits = fits || now;
      if (fits && !options.exhaustive) break;
      if (!fits && &rule == &rules.back()) put_aside(m, memory, need);
    }
    result.fitting += fits;
  };
  for_each_mapping(job, options.fixed, consider, [&](const plan_mapping& m, const std::string& reason) { forbidden.add(m, reason); });
  for (const auto& [seconds, mapping] : best) result.plans.push_back(predict<Precision>(job, cluster, mapping));
  result.refused = forbidden.take();
  for (auto& entry : large) result.refused.push_back(std::move(entry.second));
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

}  // namespace moefold
