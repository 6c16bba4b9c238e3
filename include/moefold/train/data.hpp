#pragma once
// Text as training data: bytes are tokens, sequences are cut from them, and the order in which they are seen is a pure function of
// (seed, sample number). Every mapping therefore trains on the same sequences in the same order, and a resumed run knows where it was.
//
//   bytes      |--- 0 ---|--- 1 ---| ... |--- n-1 ---|--- held out ---|     sequence i: tokens [i*S, i*S + S), labels one further
//   samples    0 1 2 ... n-1 | n ... 2n-1 | ...                             epoch e is a permutation of 0 .. n-1, made without a table
//   an edit    may change every sample as it is read: a label below 0 is ignored, a token below 0 is padding
//   a step     samples step*G .. +G-1; micro-batch m of data-parallel rank d holds (m*DP + d)*B .. +B-1 of them
#include <moefold/core/error.hpp>
#include <moefold/core/rng.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace moefold {

/// A text as tokens 0..255, one per byte.
class token_stream {
 public:
  static constexpr std::int32_t vocabulary = 256;

  token_stream() = default;
  static token_stream from_bytes(std::string bytes) { return token_stream(std::move(bytes)); }

  /// The files' bytes one after another. Throws config_error that names the file which is missing, unreadable or empty.
  static token_stream from_files(const std::vector<std::string>& paths) {
    require<config_error>(!paths.empty(), "moefold: no data file given; name at least one text file");
    std::string bytes;
    for (const std::string& path : paths) append_file(bytes, path);
    return token_stream(std::move(bytes));
  }

  extent_t size() const { return extent_t(bytes_.size()); }
  std::int32_t operator[](extent_t i) const { return static_cast<unsigned char>(bytes_[std::size_t(i)]); }

 private:
  explicit token_stream(std::string bytes) : bytes_(std::move(bytes)) {}

  static void append_file(std::string& bytes, const std::string& path) {
    const std::size_t before = bytes.size();
    errno = 0;
    const auto close = [](std::FILE* f) { std::fclose(f); };
    const std::unique_ptr<std::FILE, decltype(close)> file(std::fopen(path.c_str(), "rb"), close);
    require<config_error>(file != nullptr, "moefold: cannot open data file '", path, "': ", std::strerror(errno), "; check the path");
    std::array<char, 1 << 16> block;
    while (const std::size_t got = std::fread(block.data(), 1, block.size(), file.get())) bytes.append(block.data(), got);
    require<config_error>(!std::ferror(file.get()), "moefold: cannot read data file '", path, "': ", std::strerror(errno),
                          "; name a text file");
    require<config_error>(bytes.size() > before, "moefold: data file '", path, "' is empty; leave it out or fill it");
  }

  std::string bytes_;
};

/// Entropy of the token frequencies in [first, first + count), in nats per token: the loss of the best model that knows no context.
inline double order0_entropy(const token_stream& text, extent_t first, extent_t count) {
  std::array<extent_t, token_stream::vocabulary> seen{};
  for (extent_t i = first; i < first + count; ++i) ++seen[std::size_t(text[i])];
  double entropy = 0;
  for (const extent_t n : seen)
    if (n > 0) entropy -= double(n) / double(count) * std::log(double(n) / double(count));
  return entropy;
}
inline double order0_entropy(const token_stream& text) { return order0_entropy(text, 0, text.size()); }

/// Element i of the permutation of 0..n-1 that belongs to (seed, epoch). A Feistel network permutes the next power of four;
/// what falls outside 0..n-1 walks on along its cycle until it is inside (Black and Rogaway 2002): fewer than 4 rounds on average.
constexpr extent_t shuffled(extent_t i, extent_t n, std::uint64_t seed, std::uint64_t epoch) {
  const int half = std::max(1, (int(std::bit_width(std::uint64_t(n - 1))) + 1) / 2);
  const std::uint64_t mask = (std::uint64_t{1} << half) - 1;
  const random_stream mix(seed, hash_of("data.shuffle") + epoch);
  std::uint64_t x = std::uint64_t(i);
  do {
    for (std::uint64_t round = 0; round < 6; ++round) {
      const std::uint64_t left = x >> half, right = x & mask;
      x = (right << half) | (left ^ (mix.bits(right * 8 + round) & mask));
    }
  } while (x >= std::uint64_t(n));
  return extent_t(x);
}

/// Which samples of a step belong to a data-parallel rank. The global batch is a multiple of ranks * micro_batch.
struct batch_part {
  extent_t global_batch = 8;  // sequences per step, G
  extent_t micro_batch = 1;   // sequences per micro-batch, B
  extent_t ranks = 1;         // DP
  extent_t rank = 0;

  constexpr extent_t micro_batches() const { return global_batch / (ranks * micro_batch); }  // per rank and step
  /// The global sample that is sequence b of micro-batch m.
  constexpr extent_t sample(extent_t step, extent_t m, extent_t b) const {
    return step * global_batch + (m * ranks + rank) * micro_batch + b;
  }
};

/// Sequences of S tokens from a stream; the last share of them is held out for evaluation. Reading is const and safe from many threads.
class dataset {
 public:
  dataset(token_stream text, extent_t sequence, std::uint64_t seed, double held_out_share = 0.05, bool shuffle = true)
      : text_(std::move(text)), sequence_(sequence), seed_(seed), share_(held_out_share), shuffle_(shuffle) {
    require<config_error>(sequence >= 1, "moefold: a sequence has at least 1 token (given ", sequence, ")");
    require<config_error>(share_ >= 0 && share_ < 1, "moefold: the held-out share lies in [0, 1) (given ", share_, "); use 0.05");
    require<config_error>(text_.size() > sequence, "moefold: the data have ", text_.size(), " bytes, one sequence of ", sequence, " needs ",
                          sequence + 1, "; give more data or a shorter sequence");
    const extent_t sequences = (text_.size() - 1) / sequence;
    held_out_ = held_out_of(sequences);
    training_ = sequences - held_out_;
    for (extent_t i = 0; i < text_.size(); ++i) largest_ = std::max(largest_, text_[i]);
  }

  /// Called on every sample as it is read, with the number of its sequence, tokens [S] and labels [S]: labels set below 0 are ignored by the loss,
  /// tokens set below 0 are padding (routed, but no part of any loss). From many threads at once, so it must depend on its arguments alone.
  using edit_function = std::function<void(extent_t index, std::span<std::int32_t> tokens, std::span<std::int32_t> labels)>;
  void set_edit(edit_function edit) { edit_ = std::move(edit); }

  extent_t sequence() const { return sequence_; }
  extent_t training_sequences() const { return training_; }
  extent_t held_out_sequences() const { return held_out_; }
  const token_stream& text() const { return text_; }

  /// Throws config_error unless one step's global batch fits into the training sequences: says how many bytes would do.
  void require_batch(extent_t global_batch) const {
    if (global_batch <= training_) return;
    const auto enough = [&](extent_t sequences) { return sequences - held_out_of(sequences) >= global_batch; };
    extent_t least = global_batch, most = (std::numeric_limits<extent_t>::max() - 1) / sequence_;  // what bytes can be counted for
    const bool countable = least <= most && enough(most);
    while (countable && least < most) {  // the training share grows with the data: bisect
      const extent_t middle = least + (most - least) / 2;
      enough(middle) ? most = middle : least = middle + 1;
    }
    const std::string bytes = countable ? std::to_string(least * sequence_ + 1) : "more than can be counted";
    throw config_error(sentence("moefold: the data have ", text_.size(), " bytes, a batch of ", global_batch, " sequences of ", sequence_,
                                " needs ", bytes, held_out_ > 0 ? " (held-out sequences included)" : "",
                                "; give more data, a smaller global batch or a shorter sequence"));
  }

  /// Throws config_error if a token is not among 0 .. vocabulary - 1: names the largest.
  void require_vocabulary(extent_t vocabulary) const {
    require<config_error>(largest_ < vocabulary, "moefold: the data have token ", largest_, " and the model a vocabulary of ", vocabulary,
                          "; give the model a vocabulary of at least ", largest_ + 1, " (256 holds every byte), or other data");
  }

  /// Which training sequence is sample number `global_sample` of the run, counted from 0 over all steps and ranks.
  extent_t sequence_index(extent_t global_sample) const {
    const extent_t epoch = global_sample / training_, i = global_sample % training_;
    return shuffle_ ? shuffled(i, training_, seed_, std::uint64_t(epoch)) : i;
  }

  /// Tokens [S] and labels [S], the tokens one further on.
  void training_sample(extent_t global_sample, std::span<std::int32_t> tokens, std::span<std::int32_t> labels) const {
    copy(sequence_index(global_sample), tokens, labels);
  }
  /// Packed documents: one ends after this token, and attention does not cross its end; -1 (the default): every sequence is one document.
  void end_documents_after(std::int32_t token) { document_end_ = token; }
  std::int32_t document_end() const { return document_end_; }

  /// Held-out sequence i, 0 <= i < held_out_sequences(), always in file order.
  void evaluation_sample(extent_t i, std::span<std::int32_t> tokens, std::span<std::int32_t> labels) const {
    require(i >= 0 && i < held_out_, "moefold: there is no held-out sequence ", i, "; there are ", held_out_);
    copy(training_ + i, tokens, labels);
  }

  /// Order-0 entropy of the labels trained on, and of those held out, in nats per token.
  double training_entropy() const { return order0_entropy(text_, 1, training_ * sequence_); }
  double held_out_entropy() const { return order0_entropy(text_, training_ * sequence_ + 1, held_out_ * sequence_); }

 private:
  // At least one sequence is held out where there are two, and one is always left to train on.
  extent_t held_out_of(extent_t sequences) const {
    if (share_ == 0 || sequences < 2) return 0;
    return std::clamp(extent_t(std::llround(double(sequences) * share_)), extent_t{1}, sequences - 1);
  }
  void copy(extent_t index, std::span<std::int32_t> tokens, std::span<std::int32_t> labels) const {
    require(extent_t(tokens.size()) == sequence_ && extent_t(labels.size()) == sequence_, "moefold: a sample fills tokens [", sequence_,
            "] and labels [", sequence_, "] (given [", tokens.size(), "] and [", labels.size(), "])");
    const extent_t first = index * sequence_;
    for (extent_t i = 0; i < sequence_; ++i) {
      tokens[std::size_t(i)] = text_[first + i];
      labels[std::size_t(i)] = text_[first + i + 1];
    }
    if (edit_) edit_(index, tokens, labels);
  }

  token_stream text_;
  std::int32_t document_end_ = -1;
  extent_t sequence_;
  std::uint64_t seed_;
  double share_;
  bool shuffle_;
  edit_function edit_;
  extent_t held_out_ = 0;
  extent_t training_ = 0;
  std::int32_t largest_ = 0;  // token of the whole text
};

}  // namespace moefold
