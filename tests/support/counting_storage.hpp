#pragma once
// Another storage that counts what is read and written through it, in calls and bytes, by all threads together; and may be made slow.
#include <moefold/checkpoint/storage.hpp>

#include <atomic>
#include <chrono>
#include <thread>

namespace moefold {

class counting_storage final : public storage {
 public:
  explicit counting_storage(storage& inner) : inner_(inner) {}
  std::atomic<std::uint64_t> reads{0}, bytes_read{0}, writes{0}, bytes_written{0}, opened{0};
  std::chrono::milliseconds write_takes{0};  // every write at least this long
  void reset() { reads = bytes_read = writes = bytes_written = opened = 0; }

  std::unique_ptr<storage_file> create(const std::string& path) override { return counted(inner_.create(path)); }
  std::unique_ptr<storage_file> open(const std::string& path) override { return counted(inner_.open(path)); }
  std::unique_ptr<storage_file> open_for_writing(const std::string& path) override { return counted(inner_.open_for_writing(path)); }
  bool exists(const std::string& path) override { return inner_.exists(path); }
  std::vector<std::string> list(const std::string& folder) override { return inner_.list(folder); }
  void make_folder(const std::string& path) override { inner_.make_folder(path); }
  void rename(const std::string& from, const std::string& to) override { inner_.rename(from, to); }
  void remove(const std::string& path) override { inner_.remove(path); }
  void sync_folder(const std::string& path) override { inner_.sync_folder(path); }
  std::uint64_t free_bytes(const std::string& folder) override { return inner_.free_bytes(folder); }

 private:
  class counted_file final : public storage_file {
   public:
    counted_file(counting_storage& of, std::unique_ptr<storage_file> inner) : of_(of), inner_(std::move(inner)) { ++of_.opened; }
    const std::string& path() const override { return inner_->path(); }
    std::uint64_t size() override { return inner_->size(); }
    void read(std::uint64_t offset, std::span<std::byte> to) override {
      ++of_.reads, of_.bytes_read += to.size();
      inner_->read(offset, to);
    }
    void write(std::uint64_t offset, std::span<const std::byte> from) override {
      ++of_.writes, of_.bytes_written += from.size();
      std::this_thread::sleep_for(of_.write_takes);
      inner_->write(offset, from);
    }
    void sync() override { inner_->sync(); }

   private:
    counting_storage& of_;
    std::unique_ptr<storage_file> inner_;
  };
  std::unique_ptr<storage_file> counted(std::unique_ptr<storage_file> file) {
    return std::make_unique<counted_file>(*this, std::move(file));
  }
  storage& inner_;
};

}  // namespace moefold
