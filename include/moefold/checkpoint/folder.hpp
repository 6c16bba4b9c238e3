#pragma once
// The folder of a run's checkpoints: how saves are named, which one counts, and how one becomes visible. At any instant of a save, whatever of it has reached the
// disk, `latest` names a save that is complete.
//
//   DIR/latest                           "step-00000200": the save that a resume takes
//   DIR/step-00000200/manifest.json      and rank-0000.safetensors, ..      complete: it has its name only since all of it was synced
//   DIR/step-00000200-2/                 the same step saved once more; counts for more
//   DIR/step-00000300.partial/           being written, being removed, or left by a crash: never read, removed by the next save
// One job writes into a folder at a time. Nothing but these names is ever removed.
#include <moefold/checkpoint/bytes.hpp>
#include <moefold/checkpoint/storage.hpp>

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace moefold {

/// A save by its step, and how many saves of that step came before it in this folder.
struct save_name {
  std::int64_t step = 0, attempt = 1;

  std::string text() const {
    const std::string digits = std::to_string(step);
    return "step-" + std::string(digits.size() < 8 ? 8 - digits.size() : 0, '0') + digits +
           (attempt > 1 ? "-" + std::to_string(attempt) : std::string());
  }
  friend auto operator<=>(const save_name&, const save_name&) = default;

  /// Of exactly such a text; no name of a file elsewhere is one.
  static std::optional<save_name> parse(std::string_view text) {
    const std::string all(text.substr(0, 64));
    if (!all.starts_with("step-")) return std::nullopt;
    const std::size_t dash = all.find('-', 5);
    save_name name;
    name.step = std::strtoll(all.substr(5, dash == std::string::npos ? dash : dash - 5).c_str(), nullptr, 10);
    if (dash != std::string::npos) name.attempt = std::strtoll(all.substr(dash + 1).c_str(), nullptr, 10);
    const bool possible = name.step >= 0 && name.attempt >= 1 && name.attempt <= 1'000'000'000;
    if (!possible || name.text() != text) return std::nullopt;
    return name;
  }
};

inline constexpr const char* manifest_file = "manifest.json";
inline constexpr const char* latest_file = "latest";
inline constexpr const char* partial_suffix = ".partial";

inline std::string path_in(const std::string& folder, std::string_view name) {
  return folder.empty() || folder.back() == '/' ? folder + std::string(name) : folder + "/" + std::string(name);
}

/// Every complete save in `folder`, oldest first.
inline std::vector<save_name> saves_in(storage& from, const std::string& folder) {
  std::vector<save_name> saves;
  for (const std::string& name : from.list(folder))
    if (const auto save = save_name::parse(name); save && from.exists(path_in(path_in(folder, name), manifest_file)))
      saves.push_back(*save);
  std::sort(saves.begin(), saves.end());
  return saves;
}

/// All of a small file. Throws format_error where it has more than `most` bytes.
inline std::string read_text(storage& from, const std::string& path, std::uint64_t most) {
  const auto file = from.open(path);
  const std::uint64_t size = file->size();
  require_file(size <= most, path, most, "it has ", size, " bytes, at most ", most, " are expected; it is no file of a checkpoint");
  std::string text(std::size_t(size), '\0');
  file->read(0, std::as_writable_bytes(std::span(text.data(), text.size())));
  return text;
}

/// The save that a resume from `path` takes: `path` itself where it is a save, else what its `latest` names, else (only the names are left of a copy, or its
/// very first save was cut off) its newest. Throws config_error where there is no save, format_error and incomplete_checkpoint where `latest` names none.
inline std::string find_checkpoint(storage& from, const std::string& path) {
  require<config_error>(from.exists(path), "moefold: there is no checkpoint folder '", path,
                        "'; check the path, or start without resuming");
  if (from.exists(path_in(path, manifest_file))) return path;
  const std::string pointer = path_in(path, latest_file);
  if (!from.exists(pointer)) {
    const std::vector<save_name> saves = saves_in(from, path);
    require<config_error>(!saves.empty(), "moefold: '", path, "' holds no complete save; start without resuming, or name another folder");
    return path_in(path, saves.back().text());
  }
  std::string named = read_text(from, pointer, 256);
  if (named.ends_with('\n')) named.pop_back();
  require_file(save_name::parse(named).has_value(), pointer, 0, "found '", shown_text(named), "', needs the name of a save such as '",
               save_name{200}.text(), "'; write one of the folder's saves there");
  const std::string save = path_in(path, named);
  if (from.exists(path_in(save, manifest_file))) return save;
  std::string others;
  for (const save_name& other : saves_in(from, path)) others += (others.empty() ? "" : ", ") + other.text();
  require_file<incomplete_checkpoint>(false, path_in(save, manifest_file), 0, "it is not there, and '", pointer, "' names it; ",
                                      others.empty() ? "no save is left here" : "saves that are left: " + others);
  return save;
}

namespace detail {

/// Makes a folder and its parents so that they survive a power failure.
inline void make_lasting_folder(storage& to, std::string path) {
  while (path.size() > 1 && path.ends_with('/')) path.pop_back();
  if (to.exists(path)) return;
  const std::size_t slash = path.rfind('/');
  const std::string parent = slash == std::string::npos ? "." : slash == 0 ? "/" : path.substr(0, slash);
  make_lasting_folder(to, parent);
  to.make_folder(path);
  to.sync_folder(parent);
}

inline void remove_folder(storage& from, const std::string& folder) {
  for (const std::string& name : from.list(folder)) from.remove(path_in(folder, name));
  from.remove(folder);
}

/// A new file with these bytes, synced.
inline void write_synced(storage& to, const std::string& path, std::string_view text) {
  const auto file = to.create(path);
  file->write(0, bytes_of(text));
  file->sync();
}

}  // namespace detail

/// Removes what crashes have left in `folder`.
inline void remove_leftovers(storage& from, const std::string& folder) {
  for (const std::string& name : from.list(folder)) {
    if (!name.ends_with(partial_suffix)) continue;
    const std::string stem = name.substr(0, name.size() - std::string_view(partial_suffix).size());
    if (stem == latest_file) from.remove(path_in(folder, name));
    if (save_name::parse(stem)) detail::remove_folder(from, path_in(folder, name));
  }
}

/// The name for the next save of `step`.
inline save_name next_save(storage& from, const std::string& folder, std::int64_t step) {
  save_name next{step};
  for (const std::string& name : from.list(folder))
    if (const auto save = save_name::parse(name); save && save->step == step) next.attempt = std::max(next.attempt, save->attempt + 1);
  return next;
}

/// Makes a save visible whose files lie, each synced, in its .partial folder: folder synced, renamed, `latest` moved.
/// renamed becomes true when the save has its name; from then on it is complete, whatever fails.
inline void commit_save(storage& to, const std::string& folder, const save_name& save, bool& renamed) {
  const std::string name = save.text(), done = path_in(folder, name), partial = done + partial_suffix;
  to.sync_folder(partial);
  to.rename(partial, done);
  renamed = true;
  to.sync_folder(folder);
  const std::string pointer = path_in(folder, latest_file), next = pointer + partial_suffix;
  detail::write_synced(to, next, name + "\n");
  to.rename(next, pointer);
  to.sync_folder(folder);
}

/// Removes the oldest saves but for `keep` (0: keeps all), and those whose step was saved again. Saves of later steps than `newest` are of a run that was continued
/// from before them: they stay until their step comes again. `newest`, which `latest` names, stays.
inline void remove_old_saves(storage& from, const std::string& folder, const save_name& newest, int keep) {
  if (keep <= 0) return;
  std::vector<save_name> steps;  // the last save of each
  std::vector<save_name> old;
  for (const save_name& save : saves_in(from, folder)) {
    if (newest < save) continue;
    if (!steps.empty() && steps.back().step == save.step) {
      old.push_back(steps.back());
      steps.pop_back();
    }
    steps.push_back(save);
  }
  if (steps.size() > std::size_t(keep)) old.insert(old.end(), steps.begin(), steps.end() - keep);
  for (const save_name& save : old) {
    const std::string path = path_in(folder, save.text());
    from.rename(path, path + partial_suffix);
  }
  if (old.empty()) return;
  from.sync_folder(folder);  // before a file goes: no save is ever seen with files missing
  for (const save_name& save : old) detail::remove_folder(from, path_in(folder, save.text() + partial_suffix));
}

}  // namespace moefold
