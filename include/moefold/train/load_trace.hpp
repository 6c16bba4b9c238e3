#pragma once
// How uneven the routing of a run was, from the metrics that `train` writes (train/metrics.hpp): for every size of EP the rows of the busiest rank's experts over
// the mean, the imbalance that a plan takes. A rank holds neighbouring experts. Steps count whole: a single micro-batch is more uneven than its step.
//
//   {"step": 1, ..., "expert_load": [[12, 4, 3, 5], ...], ...}      layer 0, ep 2:  max(12 + 4, 3 + 5) / 12 = 1.33      ep 4:  12 / 6 = 2
#include <moefold/checkpoint/folder.hpp>
#include <moefold/checkpoint/json.hpp>
#include <moefold/checkpoint/posix_storage.hpp>

#include <algorithm>
#include <cmath>

namespace moefold {

/// Rows of the busiest rank over the mean, 1 and above.
struct load_imbalance {
  double mean = 1;  // over steps
  double p99 = 1;   // of steps: 1 in 100 is worse
};

/// Local. Takes the load of one step after the other; keeps 8 bytes for each step, layer and size of EP.
class load_trace {
 public:
  explicit load_trace(std::string name) : name_(std::move(name)) {}

  /// load[layer][expert]: tokens that chose the expert. Layers without any are dense and left out. Throws error where the extents change.
  void add(const std::vector<std::vector<extent_t>>& load) {
    if (experts_ == 0) {
      layers_ = load.size();
      experts_ = load.empty() ? 0 : extent_t(load[0].size());
      require(experts_ > 0, "moefold: a load has at least one layer and one expert");
      for (extent_t d = 1; d <= experts_; ++d)
        if (experts_ % d == 0) sizes_.push_back(d);
      seen_.resize(sizes_.size() * layers_);
    }
    require(load.size() == layers_, "moefold: the load of ", load.size(), " layers follows one of ", layers_);
    for (std::size_t layer = 0; layer < layers_; ++layer) {
      require(extent_t(load[layer].size()) == experts_, "moefold: layer ", layer, " has the load of ", load[layer].size(),
              " experts, needs ", experts_);
      double all = 0;
      for (const extent_t n : load[layer]) {
        require(n >= 0, "moefold: layer ", layer, " has a load of ", n, "; tokens are counted");
        all += double(n);
      }
      for (std::size_t s = 0; s < sizes_.size() && all > 0; ++s) {
        const extent_t own = experts_ / sizes_[s];
        double most = 0;
        for (extent_t rank = 0; rank < sizes_[s]; ++rank) {
          double rows = 0;
          for (extent_t e = rank * own; e < (rank + 1) * own; ++e) rows += double(load[layer][std::size_t(e)]);
          most = std::max(most, rows);
        }
        seen_[s * layers_ + layer].push_back(most * double(sizes_[s]) / all);
      }
    }
    ++steps_;
  }

  const std::string& name() const { return name_; }
  std::size_t steps() const { return steps_; }
  std::size_t layers() const { return layers_; }
  extent_t experts() const { return experts_; }
  const std::vector<extent_t>& sizes() const { return sizes_; }  // of EP: the divisors of the experts

  /// Of one layer; {1, 1} of a dense one. Throws config_error where EP does not divide the experts.
  load_imbalance of_layer(extent_t ep, std::size_t layer) const {
    std::vector<double> values = seen_[place_of(ep) * layers_ + layer];
    if (values.empty()) return {};
    load_imbalance out{0, 0};
    for (const double v : values) out.mean += v / double(values.size());
    const std::size_t rank = std::size_t(std::ceil(0.99 * double(values.size()))) - 1;
    std::nth_element(values.begin(), values.begin() + std::ptrdiff_t(rank), values.end());
    out.p99 = values[rank];
    return out;
  }
  /// Of the model: the mean over its MoE layers, which a step's time follows; and the p99 of the worst layer.
  load_imbalance of(extent_t ep) const {
    load_imbalance out{0, 1};
    std::size_t counted = 0;
    for (std::size_t layer = 0; layer < layers_; ++layer) {
      if (seen_[place_of(ep) * layers_ + layer].empty()) continue;
      const load_imbalance one = of_layer(ep, layer);
      out.mean += one.mean, out.p99 = std::max(out.p99, one.p99);
      ++counted;
    }
    if (counted > 0) out.mean /= double(counted);
    out.mean = std::max(out.mean, 1.0);
    return out;
  }

  /// Throws config_error unless the run's layers have as many experts as the model that is planned.
  void require_experts(extent_t experts) const {
    require<config_error>(experts_ == experts, "moefold: ", name_, " is of a model with ", experts_,
                          " experts in a layer, and the one to plan has ", experts, "; name the metrics of a run with as many");
  }

 private:
  std::size_t place_of(extent_t ep) const {
    const auto at = std::find(sizes_.begin(), sizes_.end(), ep);
    require<config_error>(at != sizes_.end(), "moefold: ", name_, " is of ", experts_, " experts; EP must divide them (given ", ep, ")");
    return std::size_t(at - sizes_.begin());
  }

  std::string name_;
  std::size_t layers_ = 0, steps_ = 0;
  extent_t experts_ = 0;
  std::vector<extent_t> sizes_;
  std::vector<std::vector<double>> seen_;  // [size of EP][layer][step]
};

/// Adds what the text of a metrics file says. Throws format_error that names the line.
inline load_trace parse_load_trace(std::string_view text, const std::string& file) {
  load_trace trace(file);
  std::size_t number = 0;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    const std::string_view line = text.substr(at, end - at);
    const std::string place = sentence(file, ", line ", ++number);
    at = end + 1;
    if (line.empty()) continue;
    const json_value record = read_json(line, place);
    if (!record.find("step")) continue;  // what ran, or an event
    const json_value* const load = record.find("expert_load");
    if (!load) record.require(false, "the step has no 'expert_load'; name the metrics of a model with experts (train --metrics)");
    std::vector<std::vector<extent_t>> rows;
    for (const json_value& layer : load->array()) {
      rows.emplace_back();
      for (const json_value& n : layer.array()) rows.back().push_back(n.integer<extent_t>());
    }
    try {
      trace.add(rows);
    } catch (const error& wrong) {
      std::string_view what = wrong.what();
      if (what.starts_with("moefold: ")) what.remove_prefix(9);
      load->require(false, what);
    }
  }
  require_file(trace.steps() > 0, file, 0, "it has no step; name a file that train --metrics wrote");
  return trace;
}

/// The same of a file. Throws format_error, and error where it cannot be read.
inline load_trace read_load_trace(const std::string& path) {
  constexpr std::uint64_t most = std::uint64_t{1} << 30;
  return parse_load_trace(read_text(disk(), path, most), path);
}

}  // namespace moefold
