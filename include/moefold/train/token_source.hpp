#pragma once
// Where tokens come from, whatever file they lie in: a row of token ids that any thread may read from any place, and where documents begin in it.
// Several sources put one after another are a source again.
//
//   tokens      |  document 0  | document 1 |      document 2      |      size() of them; documents(): 0, 14, 26
//   joined      |  one source                          | the next  |      every source begins a document
#include <moefold/checkpoint/storage.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace moefold {

/// A row of token ids. Reading is const and safe from many threads.
class token_source {
 public:
  virtual ~token_source() = default;

  virtual extent_t size() const = 0;  // tokens
  /// Tokens [first, first + to.size()). Throws format_error for a token that is none, and where the file is not what it was when it was opened.
  virtual void read(extent_t first, std::span<std::int32_t> to) const = 0;
  /// No token is above it, whatever the file says: 255 for bytes.
  virtual std::int64_t largest_possible() const { return std::numeric_limits<std::int32_t>::max(); }
  /// "token 17 of 'corpus.bin'", for errors.
  virtual std::string describe(extent_t token) const { return sentence("token ", token); }

  /// Where documents begin, ascending, the first at 0; each ends where the next begins. One document where the source knows no better.
  std::span<const extent_t> documents() const { return documents_; }

 protected:
  void check_range(extent_t first, std::size_t count) const {
    require(first >= 0 && first <= size() && extent_t(count) <= size() - first, "moefold: there are no tokens [", first, ", +", count,
            ") in data of ", size(), " tokens");
  }
  std::vector<extent_t> documents_{0};
};

/// A text in memory as tokens 0..255, one per byte.
class token_stream final : public token_source {
 public:
  static constexpr std::int32_t vocabulary = 256;

  token_stream() = default;
  static token_stream from_bytes(std::string bytes) { return token_stream(std::move(bytes)); }
  /// The files' bytes one after another. Throws an error that names the file which is missing, unreadable or empty.
  static token_stream from_files(const std::vector<std::string>& paths, storage& from) {
    require<config_error>(!paths.empty(), "moefold: no data file given; name at least one text file");
    std::string bytes;
    for (const std::string& path : paths) {
      const auto file = from.open(path);
      const std::size_t before = bytes.size(), more = std::size_t(file->size());
      require<config_error>(more > 0, "moefold: data file '", path, "' is empty; leave it out or fill it");
      bytes.resize(before + more);
      file->read(0, std::as_writable_bytes(std::span(bytes)).subspan(before));
    }
    return token_stream(std::move(bytes));
  }

  extent_t size() const override { return extent_t(bytes_.size()); }
  std::int32_t operator[](extent_t i) const { return static_cast<unsigned char>(bytes_[std::size_t(i)]); }
  void read(extent_t first, std::span<std::int32_t> to) const override {
    check_range(first, to.size());
    for (std::size_t i = 0; i < to.size(); ++i) to[i] = (*this)[first + extent_t(i)];
  }
  std::int64_t largest_possible() const override { return vocabulary - 1; }

 private:
  explicit token_stream(std::string bytes) : bytes_(std::move(bytes)) {}
  std::string bytes_;
};

using shared_tokens = std::shared_ptr<const token_source>;

/// Sources one after another.
class joined_tokens final : public token_source {
 public:
  explicit joined_tokens(std::vector<shared_tokens> parts) : parts_(std::move(parts)) {
    documents_.clear();
    for (const shared_tokens& part : parts_) {
      for (const extent_t document : part->documents()) documents_.push_back(size_ + document);
      first_.push_back(size_);
      size_ += part->size();
      largest_ = std::max(largest_, part->largest_possible());
    }
  }

  extent_t size() const override { return size_; }
  void read(extent_t first, std::span<std::int32_t> to) const override {
    check_range(first, to.size());
    while (!to.empty()) {
      const std::size_t part = part_of(first);
      const extent_t from = first - first_[part];
      const std::size_t count = std::min(to.size(), std::size_t(parts_[part]->size() - from));
      parts_[part]->read(from, to.first(count));
      to = to.subspan(count);
      first += extent_t(count);
    }
  }
  std::int64_t largest_possible() const override { return largest_; }
  std::string describe(extent_t token) const override {
    const std::size_t part = part_of(token);
    return parts_[part]->describe(token - first_[part]);
  }

 private:
  std::size_t part_of(extent_t token) const {
    return std::size_t(std::upper_bound(first_.begin(), first_.end(), token) - first_.begin()) - 1;
  }
  std::vector<shared_tokens> parts_;
  std::vector<extent_t> first_;  // token of each
  extent_t size_ = 0;
  std::int64_t largest_ = 0;
};

/// Calls f(first, tokens) for the tokens [first, first + count) in blocks, in order.
template <class F>
void for_each_block(const token_source& from, extent_t first, extent_t count, F&& f) {
  std::array<std::int32_t, 1 << 14> block;
  for (extent_t done = 0; done < count;) {
    const auto now = std::span(block).first(std::size_t(std::min(count - done, extent_t(block.size()))));
    from.read(first + done, now);
    f(first + done, std::span<const std::int32_t>(now));
    done += extent_t(now.size());
  }
}

/// How often each token was seen, by weight. Takes no more memory than there are different tokens.
class token_frequencies {
 public:
  void add(std::int32_t token, double weight = 1) {
    const std::size_t t = std::size_t(token);
    (t < few_.size() ? few_[t] : many_[token]) += weight;
    total_ += weight;
  }
  /// Entropy in nats per token: the loss of the best model that knows no context.
  double entropy() const {
    double sum = 0;
    const auto add = [&](double n) {
      if (n > 0) sum -= n / total_ * std::log(n / total_);
    };
    for (const double n : few_) add(n);
    for (const auto& [token, n] : many_) add(n);
    return sum;
  }

 private:
  std::vector<double> few_ = std::vector<double>(1 << 16);
  std::map<std::int32_t, double> many_;
  double total_ = 0;
};

/// Entropy of the token frequencies in [first, first + count), in nats per token.
inline double order0_entropy(const token_source& text, extent_t first, extent_t count) {
  token_frequencies seen;
  for_each_block(text, first, count, [&](extent_t, std::span<const std::int32_t> tokens) {
    for (const std::int32_t token : tokens) seen.add(token);
  });
  return seen.entropy();
}
inline double order0_entropy(const token_source& text) { return order0_entropy(text, 0, text.size()); }

}  // namespace moefold
