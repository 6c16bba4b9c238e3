#pragma once
// What the ranks tell each other after a step for the step line, the metrics and the saves: one all_reduce, which is not recorded.
#include <moefold/comm/groups.hpp>
#include <moefold/comm/recording.hpp>
#include <moefold/comm/thread.hpp>
#include <moefold/train/metrics.hpp>

#include <algorithm>
#include <vector>

namespace moefold {

/// CPU seconds, whether a save may be finished, and bytes sent by axis. Every rank knows the same labels, in
/// the same order, whatever it has sent.
class step_sums {
 public:
  step_sums() {
    labels_.emplace_back("world");
    const auto add = [&](std::string_view name) {
      if (std::find(labels_.begin(), labels_.end(), comm_label(name)) == labels_.end()) labels_.emplace_back(name);
    };
    for (const axis_set axes : group_set<thread_comm>::sets) add(axes.name());
    add(group_set<thread_comm>::ends.name());
    sums_.resize(first_label + labels_.size());
  }
  /// Collective over the world.
  template <class Comm>
  void add(host_exec e, Comm& world, double cpu, double collectives, const traffic_log& sent, bool ready = false) {
    sums_[0] = cpu, sums_[1] = collectives, sums_[2] = ready ? 1 : 0;
    ranks_ = world.size();
    for (std::size_t i = 0; i < labels_.size(); ++i) sums_[first_label + i] = double(sent.total(labels_[i]).bytes);
    world.all_reduce(e, std::span<const double>(sums_), std::span(sums_), sum{}).wait(e);
  }
  double share_of_collectives() const { return sums_[0] > 0 ? sums_[1] / sums_[0] : 0; }
  /// Whether every rank was ready (train/run_keeper.hpp).
  bool all_ready() const { return sums_[2] == double(ranks_); }
  named_numbers bytes() const {
    named_numbers by_axis;
    for (std::size_t i = 0; i < labels_.size(); ++i)
      if (sums_[first_label + i] > 0) by_axis.emplace_back(std::string(labels_[i].view()), std::int64_t(sums_[first_label + i]));
    return by_axis;
  }

 private:
  static constexpr std::size_t first_label = 3;
  int ranks_ = 0;
  std::vector<comm_label> labels_;
  std::vector<double> sums_;
};

}  // namespace moefold
