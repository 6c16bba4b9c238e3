#pragma once
// A transport whose processes are threads of one test: queues of messages, one hall for all ranks. Sends are buffered, so they finish at once unless told
// otherwise; a rank can be lost, as when its process dies.
#include <moefold/comm/transport.hpp>

#include <atomic>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <vector>

namespace moefold {

class memory_hall {
 public:
  explicit memory_hall(int ranks) : boxes_(std::size_t(ranks)), lost_(std::size_t(ranks)) {}
  int size() const { return int(boxes_.size()); }
  /// As if the rank's process had died.
  void lose(int rank) {
    lost_[std::size_t(rank)].store(true);
    for (auto& b : boxes_) b.changed.notify_all();
  }

 private:
  friend class memory_transport;
  struct pending {
    std::span<std::byte> room;
    std::size_t bytes = 0;
    bool done = false, too_long = false;
  };
  struct channel {
    std::deque<std::vector<std::byte>> messages;
    std::deque<pending*> receives;
  };
  struct box {
    std::mutex mutex;
    std::condition_variable changed;
    std::map<std::pair<int, std::uint32_t>, channel> channels;  // by sender and tag
    std::uint64_t news = 0;
  };
  static void match(channel& c) {
    while (!c.messages.empty() && !c.receives.empty()) {
      pending& p = *c.receives.front();
      const auto& m = c.messages.front();
      p.too_long = m.size() > p.room.size();
      p.bytes = m.size(), p.done = true;
      if (!p.too_long && !m.empty()) std::memcpy(p.room.data(), m.data(), m.size());
      c.receives.pop_front();
      c.messages.pop_front();
    }
  }
  std::vector<box> boxes_;
  std::vector<std::atomic<bool>> lost_;
};

class memory_transport final : public transport {
 public:
  memory_transport(std::shared_ptr<memory_hall> hall, int rank) : hall_(std::move(hall)), rank_(rank) {}

  int rank() const override { return rank_; }
  int size() const override { return hall_->size(); }
  std::string name() const override { return "memory"; }

  request send(int peer, std::uint32_t tag, std::span<const std::byte> data) override {
    require<transport_error>(data.size() <= most_bytes, "memory transport: a message of ", data.size(), " bytes");
    check(peer);
    if (hall_->lost_[std::size_t(rank_)].load()) return {};  // the dead say nothing
    auto& box = hall_->boxes_[std::size_t(peer)];
    {
      const std::lock_guard lock(box.mutex);
      auto& c = box.channels[{rank_, tag}];
      c.messages.emplace_back(data.begin(), data.end());
      memory_hall::match(c);
      ++box.news;
    }
    box.changed.notify_all();
    return {};
  }
  request receive(int peer, std::uint32_t tag, std::span<std::byte> room) override {
    auto& box = hall_->boxes_[std::size_t(rank_)];
    auto* p = new memory_hall::pending{room};
    const std::lock_guard lock(box.mutex);
    auto& c = box.channels[{peer, tag}];
    c.receives.push_back(p);
    memory_hall::match(c);
    return {reinterpret_cast<std::uintptr_t>(p), peer, false};
  }
  bool test(request& r, std::size_t* bytes = nullptr) override {
    if (!r.pending()) return true;
    auto& box = hall_->boxes_[std::size_t(rank_)];
    auto* p = reinterpret_cast<memory_hall::pending*>(r.id);
    bool done = false;
    {
      const std::lock_guard lock(box.mutex);
      done = p->done;
    }
    if (!done) {
      check(r.peer);
      return false;
    }
    const bool too_long = p->too_long;
    if (bytes) *bytes = p->bytes;
    delete p;
    r = {};
    if (too_long) throw transport_error("memory transport: a message longer than the room");
    return true;
  }
  void abandon(request& r, std::shared_ptr<void>) noexcept override {
    if (!r.pending()) return;
    auto& box = hall_->boxes_[std::size_t(rank_)];
    auto* p = reinterpret_cast<memory_hall::pending*>(r.id);
    {
      const std::lock_guard lock(box.mutex);
      for (auto& [key, c] : box.channels) std::erase(c.receives, p);
    }
    delete p;
    r = {};
  }
  void idle(std::chrono::nanoseconds at_most) override {
    auto& box = hall_->boxes_[std::size_t(rank_)];
    std::unique_lock lock(box.mutex);
    const auto news = std::exchange(seen_, box.news);
    if (news != box.news) return;
    box.changed.wait_for(lock, at_most);
  }
  void abort(int) noexcept override { hall_->lose(rank_); }

 private:
  void check(int peer) const {
    if (hall_->lost_[std::size_t(peer)].load()) throw transport_error(sentence("its process has ended"), peer);
  }
  std::shared_ptr<memory_hall> hall_;
  int rank_;
  std::uint64_t seen_ = 0;  // under the box's mutex
};

}  // namespace moefold
