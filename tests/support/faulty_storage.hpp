#pragma once
// Another storage, of which the call of a given number fails: with an error of the system, after half of a write, or for good. Every call of every file counts, on
// all ranks together.
//
//   faulty_storage bad(inner, {.at = 17, .code = ENOSPC});     calls 0..16 work, 17 throws storage_error, later ones work again
#include <moefold/checkpoint/storage.hpp>

#include <atomic>
#include <cerrno>
#include <limits>

namespace moefold::test {

struct fault_plan {
  int at = std::numeric_limits<int>::max();
  int code = EIO;
  bool half = false;       // a write that fails has written its first half
  bool for_ever = false;   // later calls fail too
  std::uint64_t room = 0;  // what it says is free, where not 0
};

class faulty_storage final : public storage {
 public:
  explicit faulty_storage(storage& inner, fault_plan plan = {}) : inner_(inner), plan_(plan) {}

  int calls() const { return calls_; }

  std::unique_ptr<storage_file> create(const std::string& path) override {
    count(path);
    return std::make_unique<open_file>(*this, inner_.create(path));
  }
  std::unique_ptr<storage_file> open(const std::string& path) override {
    count(path);
    return std::make_unique<open_file>(*this, inner_.open(path));
  }
  std::unique_ptr<storage_file> open_for_writing(const std::string& path) override {
    count(path);
    return std::make_unique<open_file>(*this, inner_.open_for_writing(path));
  }
  bool exists(const std::string& path) override { return count(path), inner_.exists(path); }
  std::vector<std::string> list(const std::string& folder) override { return count(folder), inner_.list(folder); }
  void make_folder(const std::string& path) override { count(path), inner_.make_folder(path); }
  void rename(const std::string& from, const std::string& to) override { count(to), inner_.rename(from, to); }
  void remove(const std::string& path) override { count(path), inner_.remove(path); }
  void sync_folder(const std::string& path) override { count(path), inner_.sync_folder(path); }
  std::uint64_t free_bytes(const std::string& folder) override {
    return count(folder), plan_.room ? plan_.room : inner_.free_bytes(folder);
  }

 private:
  class open_file final : public storage_file {
   public:
    open_file(faulty_storage& of, std::unique_ptr<storage_file> inner) : of_(of), inner_(std::move(inner)) {}
    const std::string& path() const override { return inner_->path(); }
    std::uint64_t size() override { return of_.count(path()), inner_->size(); }
    void read(std::uint64_t offset, std::span<std::byte> to) override { of_.count(path()), inner_->read(offset, to); }
    void write(std::uint64_t offset, std::span<const std::byte> from) override {
      of_.count(path(), [&] { inner_->write(offset, from.first(from.size() / 2)); });
      inner_->write(offset, from);
    }
    void sync() override { of_.count(path()), inner_->sync(); }

   private:
    faulty_storage& of_;
    std::unique_ptr<storage_file> inner_;
  };

  template <class Half>
  void count(const std::string& path, Half&& half) {
    const int call = calls_++;
    if (plan_.for_ever ? call < plan_.at : call != plan_.at) return;
    if (plan_.half) half();
    throw storage_error(sentence("moefold: call ", call, " on '", path, "' fails: ", std::strerror(plan_.code)), path, plan_.code);
  }
  void count(const std::string& path) {
    count(path, [] {});
  }

  storage& inner_;
  fault_plan plan_;
  std::atomic<int> calls_{0};
};

}  // namespace moefold::test
