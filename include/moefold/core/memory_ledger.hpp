#pragma once
// Who holds how much memory, the host's and a device's alike, and held at most: bytes by category, charged to a ledger that each rank opens for itself. A block remembers where it
// was charged, so it may be freed later and by another thread, and outlive the ledger.
//
//   memory_ledger ledger;                                          parameters        32.6 MiB now     32.6 MiB at most
//   memory_scope rank(ledger);                  // this thread     activations        4.1 MiB now     12.3 MiB at most
//   memory_scope part(memory_category::scratch);                   ...
// A ledger may have a budget: what would exceed it is refused (out_of_memory, core/memory.hpp). Outside any scope nothing is charged. Counting is a few atomic additions per allocation, none per step after warm-up.
#include <moefold/core/error.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <limits>
#include <string>
#include <utility>

namespace moefold {

enum class memory_category : std::uint8_t { parameters, gradients, optimizer, activations, recomputation, scratch, other };
inline constexpr std::size_t memory_categories = 7;
constexpr const char* name_of(memory_category category) {
  constexpr const char* names[memory_categories] = {"parameters",    "gradients", "optimizer", "activations",
                                                    "recomputation", "scratch",   "other"};
  return names[std::size_t(category)];
}

struct memory_use {
  std::size_t now = 0, peak = 0;  // bytes
};

/// A ledger at one moment: plain numbers, to be sent, kept or printed (train/progress.hpp).
struct memory_report {
  std::array<memory_use, memory_categories> category = {};
  memory_use total = {};  // its peak is that of the sum: at most the sum of the peaks, which need not coincide

  memory_use operator()(memory_category which) const { return category[std::size_t(which)]; }
};

class memory_ledger {
 public:
  static constexpr std::size_t no_budget = std::numeric_limits<std::size_t>::max();

  /// Of world rank `rank`, which may hold `budget` bytes at once.
  explicit memory_ledger(int rank = -1, std::size_t budget = no_budget) : books_(new books{.rank = rank, .budget = budget}) {}
  memory_ledger(const memory_ledger&) = delete;
  memory_ledger& operator=(const memory_ledger&) = delete;
  ~memory_ledger() { books_->drop(); }

  /// Consistent when no other thread allocates meanwhile.
  memory_use operator()(memory_category category) const { return books_->category[std::size_t(category)].use(); }
  memory_use total() const { return books_->total.use(); }

  memory_report report() const {
    memory_report now;
    for (std::size_t i = 0; i < memory_categories; ++i) now.category[i] = (*this)(memory_category(i));
    now.total = total();
    return now;
  }

  /// Where allocations are charged: a category of a ledger, or nowhere. Keeps the books alive, also without their ledger.
  class charge;

 private:
  struct account {
    std::atomic<std::size_t> now{0}, peak{0};
    bool add(std::size_t bytes, std::size_t budget = no_budget) {
      const std::size_t before = now.fetch_add(bytes, std::memory_order_relaxed), held = before + bytes;
      if (budget != no_budget && (before > budget || bytes > budget - before)) {
        now.fetch_sub(bytes, std::memory_order_relaxed);
        return false;
      }
      std::size_t most = peak.load(std::memory_order_relaxed);
      while (most < held && !peak.compare_exchange_weak(most, held, std::memory_order_relaxed)) {
      }
      return true;
    }
    memory_use use() const { return {now.load(std::memory_order_relaxed), peak.load(std::memory_order_relaxed)}; }
  };
  struct books {  // lives as long as the ledger or a charge
    int rank;
    std::size_t budget;
    std::atomic<std::size_t> users{1};
    std::array<account, memory_categories> category{};
    account total{};
    void use() { users.fetch_add(1, std::memory_order_relaxed); }
    void drop() {
      if (users.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
    }
  };
  books* books_;
};

class memory_ledger::charge {
 public:
  constexpr charge() = default;
  charge(const memory_ledger& ledger, memory_category category) : charge(ledger.books_, category) {}
  charge(const charge& other) : charge(other.books_, other.category_) {}
  charge& operator=(charge other) {
    std::swap(books_, other.books_);
    std::swap(category_, other.category_);
    return *this;
  }
  ~charge() {
    if (books_ != nullptr) books_->drop();
  }
  charge with(memory_category category) const { return charge(books_, category); }
  memory_category category() const { return category_; }
  int rank() const { return books_ != nullptr ? books_->rank : -1; }
  /// Of the budget, no_budget where there is none.
  std::size_t left() const {
    if (books_ == nullptr || books_->budget == no_budget) return no_budget;
    return books_->budget - std::min(books_->budget, books_->total.use().now);
  }
  /// False, and nothing is added, where the budget does not allow it.
  [[nodiscard]] bool add(std::size_t bytes) const {
    if (books_ == nullptr) return true;
    if (!books_->total.add(bytes, books_->budget)) return false;
    books_->category[std::size_t(category_)].add(bytes);
    return true;
  }
  /// Takes back an add of so many bytes.
  void remove(std::size_t bytes) const {
    if (books_ == nullptr) return;
    books_->category[std::size_t(category_)].now.fetch_sub(bytes, std::memory_order_relaxed);
    books_->total.now.fetch_sub(bytes, std::memory_order_relaxed);
  }

 private:
  charge(books* of, memory_category category) : books_(of), category_(category) {
    if (books_ != nullptr) books_->use();
  }

  books* books_ = nullptr;
  memory_category category_ = memory_category::other;
};

/// Where this thread's allocations are charged while the scope lives; before and after it, where they were charged before.
class memory_scope {
 public:
  explicit memory_scope(const memory_ledger& ledger, memory_category category = memory_category::other)
      : memory_scope(memory_ledger::charge(ledger, category)) {}
  /// The same ledger, if any, in another category.
  explicit memory_scope(memory_category category) : memory_scope(current().with(category)) {}
  explicit memory_scope(const memory_ledger::charge& charge) : before_(std::exchange(current_, charge)) {}
  ~memory_scope() { current_ = before_; }
  memory_scope(const memory_scope&) = delete;
  memory_scope& operator=(const memory_scope&) = delete;

  static const memory_ledger::charge& current() { return current_; }

 private:
  inline static thread_local memory_ledger::charge current_{};
  memory_ledger::charge before_;
};

}  // namespace moefold
