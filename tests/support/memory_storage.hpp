#pragma once
// A disk in memory that knows what a power failure may leave of it: what was written, created, renamed or removed and not yet synced may be there or not, each by
// itself, in any combination. It can be copied as a whole, at any instant, and be told to look at itself after each call.
//
//   file      synced bytes   + writes since: each lost, kept, or kept in part
//   folder    synced entries + changes since (a rename is one): each lost or kept
// Stricter than file systems are: a synced file whose folder was not synced may be gone.
#include <moefold/checkpoint/storage.hpp>

#include <cerrno>
#include <functional>
#include <map>
#include <mutex>
#include <random>

namespace moefold::test {

class memory_storage final : public storage {
  // One call: alone, and looked at behind it.
  template <class F>
  auto call(const std::string& what, F&& f) {
    const std::scoped_lock lock(guard_);
    if constexpr (std::is_void_v<decltype(f())>) {
      f();
      if (after) after(what);
    } else {
      auto result = f();
      if (after) after(what);
      return result;
    }
  }

 public:
  using bytes_type = std::vector<std::byte>;
  struct piece_of_file {
    std::uint64_t offset;
    bytes_type bytes;
  };
  using change = std::vector<std::pair<std::string, int>>;  // name -> node, -1: gone
  struct node {
    bool folder = false;
    bytes_type synced{}, now{};
    std::vector<piece_of_file> writes{};
    std::map<std::string, int> synced_entries{}, entries{};
    std::vector<change> changes{};
  };
  using state = std::vector<node>;  // node 0: the root

  memory_storage() : nodes_{node{.folder = true}} {}
  explicit memory_storage(state nodes) : nodes_(std::move(nodes)) {}

  std::uint64_t room = std::uint64_t{1} << 40;
  std::function<void(const std::string& call)> after{};  // each call; may ask for now()

  state now() const { return nodes_; }  // from `after`, or while nobody works

  /// What may be there after a power failure: pick(2) and pick(3) say of each change and write what became of it.
  template <class Pick>
  static state after_power_failure(const state& before, Pick&& pick) {
    state left = before;
    for (node& n : left) {
      n.entries = n.synced_entries;
      for (const change& c : n.changes)
        if (pick(2) == 1) apply(n.entries, c);
      n.now = n.synced;
      for (const piece_of_file& w : n.writes) {
        const int fate = pick(3);  // lost, kept, in part
        if (fate == 0) continue;
        const std::size_t lost = fate == 1 ? 0 : w.bytes.size() / 2;  // its first half: the file may have a hole
        put(n.now, w.offset + lost, std::span(w.bytes).subspan(lost));
      }
      n.changes.clear(), n.writes.clear();
      n.synced_entries = n.entries, n.synced = n.now;
    }
    return left;
  }
  static int choices(const state& of) {
    int count = 0;
    for (const node& n : of) count += int(n.changes.size() + n.writes.size());
    return count;
  }

  std::unique_ptr<storage_file> create(const std::string& path) override {
    return call("create " + path, [&]() -> std::unique_ptr<storage_file> {
      const auto [folder, name] = parent(path);
      if (nodes_[std::size_t(folder)].entries.contains(name)) fail(EEXIST, path);
      nodes_.push_back({});
      const int id = int(nodes_.size()) - 1;
      alter(folder, {{name, id}});
      return std::make_unique<open_file>(*this, id, path, true);
    });
  }
  std::unique_ptr<storage_file> open(const std::string& path) override {
    return call("open " + path, [&]() -> std::unique_ptr<storage_file> {
      const int id = find(path);
      require<config_error>(id >= 0 && !nodes_[std::size_t(id)].folder, "moefold: there is no file '", path, "'");
      return std::make_unique<open_file>(*this, id, path, false);
    });
  }
  std::unique_ptr<storage_file> open_for_writing(const std::string& path) override {
    return call("open for writing " + path, [&]() -> std::unique_ptr<storage_file> {
      const int id = find(path);
      if (id < 0 || nodes_[std::size_t(id)].folder) fail(ENOENT, path);
      return std::make_unique<open_file>(*this, id, path, true);
    });
  }
  bool exists(const std::string& path) override {
    return call("look for " + path, [&] { return find(path) >= 0; });
  }
  std::vector<std::string> list(const std::string& folder) override {
    return call("list " + folder, [&] {
      std::vector<std::string> names;
      for (const auto& [name, id] : nodes_[std::size_t(folder_at(folder))].entries) names.push_back(name);
      return names;
    });
  }
  void make_folder(const std::string& path) override {
    call("make folder " + path, [&] {
      for (std::size_t end = path.find('/', 1);; end = path.find('/', end + 1)) {
        const std::string part = path.substr(0, end);
        if (const int id = find(part); id < 0) {
          nodes_.push_back({.folder = true});
          const auto [folder, name] = parent(part);
          alter(folder, {{name, int(nodes_.size()) - 1}});
        } else if (!nodes_[std::size_t(id)].folder) {
          fail(ENOTDIR, part);
        }
        if (end == std::string::npos) return;
      }
    });
  }
  void rename(const std::string& from, const std::string& to) override {
    call("rename " + from + " to " + to, [&] {
      const int id = find(from), there = find(to);
      if (id < 0) fail(ENOENT, from);
      if (there >= 0 && nodes_[std::size_t(there)].folder) fail(ENOTEMPTY, to);
      const auto [folder, old_name] = parent(from);
      const auto [target, new_name] = parent(to);
      require(folder == target, "the fake renames inside one folder only");
      alter(folder, {{old_name, -1}, {new_name, id}});
    });
  }
  void remove(const std::string& path) override {
    call("remove " + path, [&] {
      const int id = find(path);
      if (id < 0) fail(ENOENT, path);
      if (!nodes_[std::size_t(id)].entries.empty()) fail(ENOTEMPTY, path);
      const auto [folder, name] = parent(path);
      alter(folder, {{name, -1}});
    });
  }
  void sync_folder(const std::string& path) override {
    call("sync folder " + path, [&] {
      node& n = nodes_[std::size_t(folder_at(path))];
      n.synced_entries = n.entries;
      n.changes.clear();
    });
  }
  std::uint64_t free_bytes(const std::string& folder) override {
    return call("free bytes of " + folder, [&] { return folder_at(folder), room; });
  }

  /// The bytes of a file, to be looked at and spoiled.
  bytes_type& bytes(const std::string& path) {
    const int id = find(path);
    require(id >= 0, "no file ", path);
    return nodes_[std::size_t(id)].now;
  }

 private:
  class open_file final : public storage_file {
   public:
    open_file(memory_storage& of, int id, std::string path, bool writable)
        : of_(of), id_(std::size_t(id)), path_(std::move(path)), writable_(writable) {}
    const std::string& path() const override { return path_; }
    std::uint64_t size() override {
      return of_.call("size of " + path_, [&] { return std::uint64_t(of_.nodes_[id_].now.size()); });
    }
    void read(std::uint64_t offset, std::span<std::byte> to) override {
      of_.call("read " + path_, [&] {
        const bytes_type& now = of_.nodes_[id_].now;
        require_file(offset <= now.size() && to.size() <= now.size() - offset, path_, offset, "ends before");
        std::copy_n(now.begin() + std::ptrdiff_t(offset), to.size(), to.begin());
      });
    }
    void write(std::uint64_t offset, std::span<const std::byte> from) override {
      of_.call("write " + path_, [&] {
        if (!writable_) fail(EBADF, path_);
        node& n = of_.nodes_[id_];
        put(n.now, offset, from);
        n.writes.push_back({offset, {from.begin(), from.end()}});
      });
    }
    void sync() override {
      of_.call("sync " + path_, [&] {
        node& n = of_.nodes_[id_];
        n.synced = n.now;
        n.writes.clear();
      });
    }

   private:
    memory_storage& of_;
    std::size_t id_;
    std::string path_;
    bool writable_;
  };

  [[noreturn]] static void fail(int code, const std::string& path) {
    throw storage_error(sentence("moefold: '", path, "': ", std::strerror(code)), path, code);
  }
  static void apply(std::map<std::string, int>& entries, const change& c) {
    for (const auto& [name, id] : c)
      if (id < 0)
        entries.erase(name);
      else
        entries[name] = id;
  }
  void alter(int folder, change c) {
    node& n = nodes_[std::size_t(folder)];
    apply(n.entries, c);
    n.changes.push_back(std::move(c));
  }
  static void put(bytes_type& to, std::uint64_t offset, std::span<const std::byte> from) {
    if (to.size() < offset + from.size()) to.resize(offset + from.size());
    std::copy(from.begin(), from.end(), to.begin() + std::ptrdiff_t(offset));
  }
  int find(const std::string& path) const {
    int at = 0;
    for (std::size_t begin = 0; begin < path.size();) {
      const std::size_t end = std::min(path.find('/', begin), path.size());
      const std::string part = path.substr(begin, end - begin);
      begin = end + 1;
      if (part.empty() || part == ".") continue;
      const auto& entries = nodes_[std::size_t(at)].entries;
      const auto found = entries.find(part);
      if (found == entries.end()) return -1;
      at = found->second;
    }
    return at;
  }
  int folder_at(const std::string& path) const {
    const int id = find(path);
    if (id < 0 || !nodes_[std::size_t(id)].folder) fail(ENOENT, path);
    return id;
  }
  std::pair<int, std::string> parent(const std::string& path) const {
    const std::size_t slash = path.rfind('/');
    return {slash == std::string::npos ? 0 : folder_at(path.substr(0, slash)), path.substr(slash == std::string::npos ? 0 : slash + 1)};
  }

  state nodes_;
  std::mutex guard_;
};

}  // namespace moefold::test
