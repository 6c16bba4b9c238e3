#pragma once
// A cluster as a JSON file: what `plan --calibrate FILE` writes and `plan --cluster FILE` reads, or somebody writes by hand. Every name carries its unit; a
// field that is not known is an error, and so is a number that cannot be.
//
//   {"moefold_cluster": 1, "name": "my-rack", "note": "...",
//    "gpu": {"name": "H100", "bf16_flops_per_second": 989.5e12, "memory_bytes_per_second": 3.35e12, "memory_bytes": 85520809984, "processors": 132},
//    "gpus_per_node": 8,
//    "inside":  {"bytes_per_second": 450e9, "reached_share": 0.77, "latency_seconds": 12e-6, "half_bytes": 1e6, "curve_bytes": [...], "curve_seconds": [...]},
//    "between": {...},                          a curve takes the place of bandwidth, share and half
//    "efficiency": {"gemm_share": 0.7, ...}}    shares and times that are left out are those of plan/cluster.hpp
#include <moefold/checkpoint/folder.hpp>
#include <moefold/checkpoint/json.hpp>
#include <moefold/core/replace_file.hpp>
#include <moefold/plan/cluster.hpp>

#include <limits>
#include <memory>
#include <set>

namespace moefold {

/// A cluster that owns its names.
class stored_cluster {
 public:
  stored_cluster(cluster_spec spec, std::string name, std::string gpu, std::string note = "")
      : names_(std::make_shared<const names>(names{std::move(name), std::move(gpu), std::move(note)})), spec_(spec) {
    spec_.name = names_->cluster.c_str(), spec_.gpu.name = names_->gpu.c_str();
  }
  const cluster_spec& spec() const { return spec_; }  // valid as long as a copy of this
  const std::string& note() const { return names_->note; }

 private:
  struct names {
    std::string cluster, gpu, note;
  };
  std::shared_ptr<const names> names_;
  cluster_spec spec_;
};

namespace detail {

/// What a number of a cluster may be.
enum class cluster_number { positive, zero_or_more, share, hidden };  // share: above 0, at most 1; hidden: 0 or more, below 1

/// The numbers of a cluster's parts by their names in a file: f(name, number, what it may be).
template <class Gpu, class F>
void for_each_number_of_gpu(Gpu& g, F&& f) {
  f("bf16_flops_per_second", g.bf16_flops, cluster_number::positive);
  f("fp8_flops_per_second", g.fp8_flops, cluster_number::zero_or_more);
  f("memory_bytes_per_second", g.hbm_bytes, cluster_number::positive);
  f("memory_bytes", g.memory, cluster_number::positive);
  f("processors", g.processors, cluster_number::positive);
}
template <class Link, class F>
void for_each_number_of_link(Link& l, F&& f) {
  f("bytes_per_second", l.bandwidth, cluster_number::positive);
  f("reached_share", l.share, cluster_number::share);
  f("latency_seconds", l.latency, cluster_number::zero_or_more);
  f("half_bytes", l.half, cluster_number::zero_or_more);
}
template <class Efficiency, class F>
void for_each_number_of_efficiency(Efficiency& e, F&& f) {
  using enum cluster_number;
  f("gemm_share", e.gemm, share);
  f("gemm_8_bit_share", e.gemm8, share);
  f("gemm_grouped_share", e.grouped, share);
  f("gemm_half_depth", e.half_depth, zero_or_more);
  f("tile_rows", e.tile_rows, positive);
  f("tile_columns", e.tile_columns, positive);
  f("memory_share", e.hbm, share);
  f("attention_forward_share", e.attention_forward, share);
  f("attention_backward_share", e.attention_backward, share);
  f("launch_seconds", e.launch, zero_or_more);
  f("hidden_tp_share", e.hide_tp, hidden);
  f("hidden_cp_share", e.hide_cp, hidden);
  f("hidden_ep_share", e.hide_ep, hidden);
  f("hidden_dp_share", e.hide_dp, hidden);
  f("hidden_gathers_share", e.hide_shards, hidden);
  f("noise_share_per_doubling", e.noise, hidden);
  f("fixed_seconds", e.fixed, zero_or_more);
}
template <class Cluster, class F>
void for_each_number_of_cluster(Cluster& c, F&& f) {
  f("gpus_per_node", c.gpus_per_node, cluster_number::positive);
  f("reserved_bytes", c.reserved, cluster_number::zero_or_more);
  f("seconds_between_failures_of_a_gpu", c.mtbf, cluster_number::zero_or_more);
  f("storage_bytes_per_second_and_gpu", c.storage, cluster_number::zero_or_more);
}

/// Reads the members of one object and knows which it has seen.
class cluster_fields {
 public:
  explicit cluster_fields(const json_value& object) : object_(object) {}

  const json_value* find(const char* name) {
    seen_.insert(name);
    return object_.find(name);
  }
  const json_value& at(const char* name) {
    seen_.insert(name);
    return object_.at(name);
  }
  /// The number of this name; what is left out stays as it is unless it is needed.
  template <class T>
  void number(const char* name, T& to, cluster_number rule, bool needed) {
    const json_value* const v = needed ? &at(name) : find(name);
    if (!v) return;
    if constexpr (std::integral<T>) {
      to = v->integer<T>();
      v->require(to >= (rule == cluster_number::positive ? 1 : 0) && to <= most, "found ", to, ", needs ",
                 rule == cluster_number::positive ? "1" : "0", " to ", most);
    } else {
      to = v->number();
      const bool fits = rule == cluster_number::positive ? to > 0
                      : rule == cluster_number::share    ? to > 0 && to <= 1
                      : rule == cluster_number::hidden   ? to >= 0 && to < 1
                                                         : to >= 0;
      v->require(fits && to <= 1e30, "found ", to, ", needs ",
                 rule == cluster_number::positive ? "a number above 0"
                 : rule == cluster_number::share  ? "a share above 0 and at most 1"
                 : rule == cluster_number::hidden ? "a share of at least 0 and below 1"
                                                  : "0 or more");
    }
  }
  /// Throws for the first member that nobody asked for.
  void done() const {
    for (const json_value& member : object_.members())
      if (!seen_.contains(member.key())) {
        std::string known;
        for (const std::string& name : seen_) known += (known.empty() ? "" : ", ") + name;
        member.require(false, "a cluster has no such field; it has ", known);
      }
  }

 private:
  static constexpr extent_t most = extent_t{1} << 53;  // what every reader of JSON keeps exactly
  const json_value& object_;
  std::set<std::string, std::less<>> seen_;
};

inline std::string cluster_text(const json_value& value) {
  const std::string& text = value.text();
  value.require(text.size() <= 4096 && text.find('\0') == std::string::npos, "a name or note has at most 4096 bytes, none of them 0");
  return text;
}

inline link_spec read_link(const json_value& object) {
  link_spec link;
  cluster_fields fields(object);
  const json_value *const bytes = fields.find("curve_bytes"), *const seconds = fields.find("curve_seconds");
  for_each_number_of_link(link, [&](const char* name, auto& to, cluster_number rule) { fields.number(name, to, rule, name[0] == 'b'); });
  fields.done();
  object.require((bytes == nullptr) == (seconds == nullptr), "a curve has both curve_bytes and curve_seconds");
  if (!bytes) return link;
  bytes->require(bytes->array().size() <= std::size_t(time_curve::most), "a curve has at most ", time_curve::most, " points (given ",
                 bytes->array().size(), ")");
  seconds->require(seconds->array().size() == bytes->array().size(), "found ", seconds->array().size(), " times of ", bytes->array().size(),
                   " sizes; a curve has as many of both");
  link.curve.points = int(bytes->array().size());
  for (std::size_t i = 0; i < bytes->array().size(); ++i)
    link.curve.bytes[i] = bytes->array()[i].number(), link.curve.seconds[i] = seconds->array()[i].number();
  try {
    check(link.curve);
  } catch (const config_error& wrong) {
    bytes->require(false, std::string_view(wrong.what()).substr(std::string_view("moefold: ").size()));
  }
  return link;
}

inline void write_link(json_writer& to, const char* name, const link_spec& link) {
  to.key(name).begin('{');
  for_each_number_of_link(link, [&](const char* field, const auto& number, cluster_number) { to.key(field).value(number); });
  if (link.curve.known()) {
    for (const auto& [field, numbers] : {std::pair("curve_bytes", &link.curve.bytes), std::pair("curve_seconds", &link.curve.seconds)}) {
      to.key(field).begin('[');
      for (std::size_t i = 0; i < std::size_t(link.curve.points); ++i) to.value((*numbers)[i]);
      to.end();
    }
  }
  to.end();
}

}  // namespace detail

/// A cluster from the text of a file. Throws format_error that names the file, the line and the field.
inline stored_cluster read_cluster(std::string_view text, const std::string& file) {
  try {
    const json_value root = read_json(text, file, 0, {.depth = 8, .keys = 1000, .token = 8192});
    detail::cluster_fields fields(root);
    const json_value& version = fields.at("moefold_cluster");
    version.require(version.integer<int>() == 1, "found version ", version.integer<int>(), ", this program reads version 1");
    cluster_spec c;
    std::string note, name = detail::cluster_text(fields.at("name"));
    if (const json_value* v = fields.find("note")) note = detail::cluster_text(*v);
    detail::for_each_number_of_cluster(
        c, [&](const char* field, auto& to, detail::cluster_number rule) { fields.number(field, to, rule, field[0] == 'g'); });
    detail::cluster_fields gpu(fields.at("gpu"));
    std::string gpu_name = detail::cluster_text(gpu.at("name"));
    detail::for_each_number_of_gpu(
        c.gpu, [&](const char* field, auto& to, detail::cluster_number rule) { gpu.number(field, to, rule, field[0] != 'f'); });
    gpu.done();
    c.inside = detail::read_link(fields.at("inside"));
    const json_value* const between = fields.find("between");
    c.between = between ? detail::read_link(*between) : c.inside;
    if (const json_value* efficiency = fields.find("efficiency")) {
      detail::cluster_fields inner(*efficiency);
      detail::for_each_number_of_efficiency(
          c.efficiency, [&](const char* field, auto& to, detail::cluster_number rule) { inner.number(field, to, rule, false); });
      inner.done();
    }
    fields.done();
    return {c, std::move(name), std::move(gpu_name), std::move(note)};
  } catch (const format_error& wrong) {
    const std::string_view before = text.substr(0, std::min<std::uint64_t>(wrong.offset(), text.size()));
    throw format_error(sentence(wrong.what(), " (line ", 1 + std::count(before.begin(), before.end(), '\n'), ")"), wrong.file(),
                       wrong.offset());
  }
}

/// The text of a file that read_cluster reads back exactly.
inline std::string write_cluster(const cluster_spec& c, std::string_view note = "") {
  json_writer to(2);
  const auto put = [&](const char* field, const auto& number, detail::cluster_number) { to.key(field).value(number); };
  to.begin('{').key("moefold_cluster").value(1).key("name").value(c.name);
  if (!note.empty()) to.key("note").value(note);
  to.key("gpu").begin('{').key("name").value(c.gpu.name);
  detail::for_each_number_of_gpu(c.gpu, put);
  to.end();
  detail::for_each_number_of_cluster(c, put);
  detail::write_link(to, "inside", c.inside);
  detail::write_link(to, "between", c.between);
  to.key("efficiency").begin('{');
  detail::for_each_number_of_efficiency(c.efficiency, put);
  to.end().end();
  return to.text() + '\n';
}

inline stored_cluster load_cluster(storage& from, const std::string& path) {
  require<config_error>(from.exists(path), "moefold: there is no cluster file '", path,
                        "'; write one with plan --calibrate, or name a known cluster");
  return read_cluster(read_text(from, path, 1 << 20), path);
}
inline void save_cluster(const std::string& path, const cluster_spec& c, std::string_view note = "") {
  replace_file(path, "cluster file", {write_cluster(c, note)});
}

}  // namespace moefold
