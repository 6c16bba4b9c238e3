#pragma once
// model.safetensors.index.json: which tensor of a published model lies in which of its files. A file name stays in the folder of the index.
//
//   {"metadata": {...}, "weight_map": {"lm_head.weight": "model-00002-of-00002.safetensors", ...}}
#include <moefold/checkpoint/json.hpp>
#include <moefold/checkpoint/text_list.hpp>

#include <map>

namespace moefold {

class shard_index {
 public:
  static constexpr std::uint64_t most_bytes = 100'000'000;
  static constexpr std::size_t most_files = 10'000;

  /// Throws format_error that names file, byte and, where there is one, the tensor.
  static shard_index parse(std::string_view json, const std::string& file);

  std::size_t size() const { return entries_.size(); }
  std::string_view name(std::size_t i) const { return names_[entries_.at(i).name]; }  // sorted
  std::size_t file_of(std::size_t i) const { return entries_.at(i).file; }            // of files()
  const std::vector<std::string>& files() const { return files_; }
  /// Where the first name lies that is not below `name`: size() where there is none.
  std::size_t lower_bound(std::string_view name) const {
    const auto at =
        std::lower_bound(entries_.begin(), entries_.end(), name, [&](const entry& e, std::string_view n) { return names_[e.name] < n; });
    return std::size_t(at - entries_.begin());
  }

 private:
  friend class shard_index_events;
  struct entry {
    std::uint32_t name, file;
  };
  std::vector<entry> entries_;
  text_list names_;
  std::vector<std::string> files_;
};

/// A name that means a safetensors file of the folder it is joined to, on any system.
inline bool stays_in_folder(std::string_view name) {
  const bool plain =
      std::all_of(name.begin(), name.end(), [](char c) { return c >= ' ' && c <= '~' && c != '/' && c != '\\' && c != ':'; });
  return plain && name.size() <= 255 && name.ends_with(".safetensors") && !name.starts_with('.');
}

class shard_index_events final : public json_events {
 public:
  shard_index_events(shard_index& to, const std::string& file) : to_(to), file_(file) {}
  bool has_map() const { return has_map_; }

  void begin(json_kind kind, std::uint64_t where) override {
    require_file(depth_ > 0 || kind == json_kind::object, file_, where, "found ", name_of(kind), ", an index is an object");
    require_file(depth_ != 1 || !in_map_ || kind == json_kind::object, file_, where, "weight_map is ", name_of(kind), ", needs an object");
    entry_is_text(where);
    ++depth_;
  }
  void end(std::uint64_t) override {
    if (--depth_ == 1) in_map_ = false;
  }
  void key(std::string& text, std::uint64_t) override {
    if (depth_ == 1)
      in_map_ = text == "weight_map", has_map_ = has_map_ || in_map_;
    else if (in_map_)
      name_ = std::move(text);
  }
  void text(std::string& text, std::uint64_t where) override {
    scalar(where);
    if (!in_map_) return;
    require_file(stays_in_folder(text), file_, where, "tensor '", shown_text(name_), "' lies in '", shown_text(text),
                 "'; needs the name of a .safetensors file beside the index, without a path");
    const auto [at, added] = numbers_.try_emplace(text, std::uint32_t(to_.files_.size()));
    if (added) to_.files_.push_back(text);
    require_file(to_.files_.size() <= shard_index::most_files, file_, where, "more than ", shard_index::most_files, " files");
    to_.entries_.push_back({std::uint32_t(to_.names_.size()), at->second});
    to_.names_.add(name_);
  }
  void integer(json_integer, std::uint64_t where) override { other(where); }
  void real(double, std::uint64_t where) override { other(where); }
  void boolean(bool, std::uint64_t where) override { other(where); }
  void null(std::uint64_t where) override { other(where); }

 private:
  void scalar(std::uint64_t where) const {
    require_file(depth_ > 0, file_, where, "an index is an object");
    require_file(depth_ != 1 || !in_map_, file_, where, "weight_map needs to be an object");
  }
  void entry_is_text(std::uint64_t where) const {
    require_file(depth_ < 2 || !in_map_, file_, where, "tensor '", shown_text(name_), "' has no file name as a text");
  }
  void other(std::uint64_t where) const {
    scalar(where);
    entry_is_text(where);
  }

  shard_index& to_;
  const std::string& file_;
  std::map<std::string, std::uint32_t> numbers_;  // of the files
  std::size_t depth_ = 0;
  bool in_map_ = false, has_map_ = false;
  std::string name_;
};

inline shard_index shard_index::parse(std::string_view json, const std::string& file) {
  shard_index index;
  shard_index_events events(index, file);
  parse_json(json, file, 0, events);
  require_file(events.has_map(), file, 0, "it has no weight_map; this is no index of a model");
  std::sort(index.entries_.begin(), index.entries_.end(),
            [&](const entry& a, const entry& b) { return index.names_[a.name] < index.names_[b.name]; });
  return index;
}

}  // namespace moefold
