#pragma once
// Sequences as training data: the order in which they are seen is a pure function of (seed, sample number). Every mapping therefore trains on the same
// sequences in the same order, and a resumed run knows where it was.
//
//   sequences  |--- 0 ---|--- 1 ---| ... |--- n-1 ---|--- held out ---|     of each source (train/token_sequences.hpp)
//   samples    0 1 2 ... n-1 | n ... 2n-1 | ...                             epoch e is a permutation of 0 .. n-1, made without a table
//   a blend    each sample has its source (train/token_blend.hpp), and each source its own epochs
//   an edit    may change every sample as it is read: a label below 0 is ignored, a token below 0 is padding
//   a step     samples step*G .. +G-1; micro-batch m of data-parallel rank d holds (m*DP + d)*B .. +B-1 of them
#include <moefold/attention/sequence_map.hpp>
#include <moefold/core/callback.hpp>
#include <moefold/core/rng.hpp>
#include <moefold/train/token_blend.hpp>
#include <moefold/train/token_sequences.hpp>

#include <bit>

namespace moefold {

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

/// Sequences of S tokens from one or several sources; the last share of each source's is held out for evaluation. Which sequence a sample is depends on
/// (seed, sample number) alone, so that number is all a resumed run needs. Reading is const and safe from many threads.
class dataset {
 public:
  /// Of a larger source tokens are checked as they are read, and entropies are not known: looking at all of them would take too long.
  static constexpr extent_t most_scanned = extent_t{1} << 26;  // tokens

  /// One text in memory.
  dataset(token_stream text, extent_t sequence, std::uint64_t seed, double held_out_share = 0.05, bool shuffle = true)
      : dataset({token_sequences(std::make_shared<token_stream>(std::move(text)), sequence)}, {}, seed, held_out_share, shuffle) {}

  /// One element of `sources` for each of the blend. held_out_share 1: everything is held out, for evaluation over all sequences.
  dataset(std::vector<token_sequences> sources, token_blend blend, std::uint64_t seed, double held_out_share = 0.05, bool shuffle = true)
      : blend_(std::move(blend)), seed_(seed), share_(held_out_share), shuffle_(shuffle) {
    require<config_error>(share_ >= 0 && share_ <= 1, "moefold: the held-out share lies in [0, 1] (given ", share_, "); use 0.05");
    require<config_error>(!sources.empty() && sources.size() == blend_.sources(), "moefold: a blend of ", blend_.sources(),
                          " sources was given ", sources.size());
    for (token_sequences& from : sources) {
      require<config_error>(from.sequence() == sources[0].sequence(), "moefold: sequences of ", sources[0].sequence(), " and of ",
                            from.sequence(), " tokens cannot be mixed; give all sources the same length");
      const extent_t held_out = held_out_of(from.size());
      tokens_ += from.tokens().size();
      training_ += from.size() - held_out;
      held_out_ += held_out;
      documents_ = documents_ || from.documents().any();
      parts_.push_back({std::move(from), held_out, parts_.empty() ? 0 : parts_.back().first + parts_.back().sequences.size()});
    }
    scanned_ = tokens_ <= most_scanned;
    for (const part& p : parts_)
      largest_ = std::max(largest_, scanned_ ? largest_of(p.sequences.tokens()) : p.sequences.tokens().largest_possible());
  }

  /// Called on every sample as it is read, with the number of its sequence, tokens [S] and labels [S]: labels set below 0 are ignored by the loss,
  /// tokens set below 0 are padding (routed, but no part of any loss). From many threads at once, so it must depend on its arguments alone.
  using edit_function = callback<void(extent_t index, std::span<std::int32_t> tokens, std::span<std::int32_t> labels)>;
  void set_edit(edit_function edit) { edit_ = std::move(edit); }

  extent_t sequence() const { return parts_[0].sequences.sequence(); }
  extent_t training_sequences() const { return training_; }
  extent_t held_out_sequences() const { return held_out_; }
  extent_t tokens() const { return tokens_; }
  std::size_t sources() const { return parts_.size(); }
  const token_blend& blend() const { return blend_; }

  /// Throws config_error unless one step's global batch fits into the training sequences: says how many tokens would do. Fits always where
  /// everything is held out, since nothing is trained on.
  void require_batch(extent_t global_batch) const {
    if (global_batch <= training_ || share_ == 1) return;
    require<config_error>(parts_.size() == 1 && !parts_[0].sequences.documents().pack, "moefold: the data make ", training_,
                          " sequences of ", sequence(), " tokens to train on, and a batch has ", global_batch,
                          "; give more data, a smaller global batch or a shorter sequence");
    const auto enough = [&](extent_t sequences) { return sequences - held_out_of(sequences) >= global_batch; };
    extent_t least = global_batch, most = (std::numeric_limits<extent_t>::max() - 1) / sequence();  // what tokens can be counted for
    const bool countable = least <= most && enough(most);
    while (countable && least < most) {  // the training share grows with the data: bisect
      const extent_t middle = least + (most - least) / 2;
      enough(middle) ? most = middle : least = middle + 1;
    }
    const std::string needed = countable ? std::to_string(least * sequence() + 1) : "more than can be counted";
    throw config_error(sentence("moefold: the data have ", tokens_, " tokens, a batch of ", global_batch, " sequences of ", sequence(),
                                " needs ", needed, held_out_ > 0 ? " (held-out sequences included)" : "",
                                "; give more data, a smaller global batch or a shorter sequence"));
  }

  /// From now on a sample with a token that is not among 0 .. vocabulary - 1 is refused when it is read: for data too large to be looked at before.
  void set_vocabulary(extent_t vocabulary) { vocabulary_ = vocabulary; }

  /// Throws config_error if a token is not among 0 .. vocabulary - 1: names the largest. Data that were not scanned pass if their samples are checked.
  void require_vocabulary(extent_t vocabulary) const {
    if (largest_ < vocabulary || (!scanned_ && vocabulary_ > 0 && vocabulary_ <= vocabulary)) return;
    require<config_error>(scanned_, "moefold: the data have ", tokens_,
                          " tokens, too many to look for one that is not in the vocabulary of ", vocabulary,
                          "; say set_vocabulary, and they are checked as they are read");
    throw config_error(sentence("moefold: the data have token ", largest_, " and the model a vocabulary of ", vocabulary,
                                "; give the model a vocabulary of at least ", largest_ + 1, " (256 holds every byte), or other data"));
  }

  /// Which sequence is sample number `global_sample` of the run, counted from 0 over all steps and ranks. Sequences are numbered source by source,
  /// in each of them the training sequences before the held-out ones.
  extent_t sequence_index(extent_t global_sample) const {
    const token_blend::place at = blend_(global_sample);
    const part& p = parts_[at.source];
    const extent_t n = p.sequences.size() - p.held_out;
    require<config_error>(n > 0, "moefold: all sequences are held out, none is left to train on; hold out a smaller share");
    const extent_t epoch = at.before / n, i = at.before % n;
    return p.first + (shuffle_ ? shuffled(i, n, seed_ + at.source * 0x9e3779b97f4a7c15u, std::uint64_t(epoch)) : i);
  }

  /// Tokens [S] and labels [S], the tokens one further on; starts [S] or empty: where in the sequence the document of each token begins.
  void training_sample(extent_t global_sample, std::span<std::int32_t> tokens, std::span<std::int32_t> labels,
                       std::span<std::int32_t> starts = {}) const {
    copy(sequence_index(global_sample), tokens, labels, starts);
  }

  /// A document ends after this token too, and attention does not cross its end; -1: no token ends one. Without any rule every sequence is one document.
  void end_documents_after(std::int32_t token) { document_end_ = token; }
  std::int32_t document_end() const { return document_end_; }
  bool has_documents() const { return document_end_ >= 0 || documents_; }

  /// Held-out sequence i, 0 <= i < held_out_sequences(): in file order, or of several sources in an order that mixes them. Where everything is held out,
  /// these are all sequences, source after source.
  void evaluation_sample(extent_t i, std::span<std::int32_t> tokens, std::span<std::int32_t> labels,
                         std::span<std::int32_t> starts = {}) const {
    require(i >= 0 && i < held_out_, "moefold: there is no held-out sequence ", i, "; there are ", held_out_);
    if (parts_.size() > 1 && share_ < 1) i = shuffled(i, held_out_, seed_, 0);
    for (const part& p : parts_) {
      if (i < p.held_out) return copy(p.first + p.sequences.size() - p.held_out + i, tokens, labels, starts);
      i -= p.held_out;
    }
  }

  /// What samples depend on besides the seed, in words and a number: datasets that say the same give the same samples, as far as a look at 64 places in
  /// each source can tell. Edits are not in it.
  std::string identity() const {
    std::uint64_t mixed = 0;
    const auto mix = [&](std::uint64_t value) { mixed = random_stream(mixed, "data.identity").bits(value); };
    mix(std::uint64_t(document_end_));
    for (std::size_t source = 0; source < parts_.size(); ++source) {
      const token_sequences& from = parts_[source].sequences;
      const document_rule& rule = from.documents();
      const extent_t size = from.tokens().size();
      for (const extent_t n : {size, from.size(), parts_[source].held_out, extent_t(blend_.share(source) * double(token_blend::slots)),
                               extent_t(rule.end), extent_t(rule.of_source), extent_t(rule.pack)})
        mix(std::uint64_t(n));
      std::array<std::int32_t, 64> block;
      const auto tokens = std::span(block).first(std::size_t(std::min(size, extent_t(block.size()))));
      for (extent_t k = 0; k < 64; ++k) {
        from.tokens().read(extent_t(double(size - extent_t(tokens.size())) * double(k) / 63), tokens);
        for (const std::int32_t token : tokens) mix(std::uint64_t(token));
      }
    }
    return sentence(parts_.size(), parts_.size() == 1 ? " source, " : " sources, ", training_, " sequences of ", sequence(), " tokens, ",
                    shuffle_ ? "shuffled" : "in file order", ", #", mixed % 100'000'000);
  }

  /// Order-0 entropy of the labels trained on, by the weights of the blend, and of those held out, in nats per token. Reads all data. NaN where they were
  /// too many to be scanned.
  double training_entropy() const {
    return entropy(
        [](const part& p) { return std::pair(extent_t{0}, p.sequences.size() - p.held_out); },
        [this](std::size_t source) { return blend_.share(source) / double(parts_[source].sequences.size() - parts_[source].held_out); });
  }
  double held_out_entropy() const {
    return entropy([](const part& p) { return std::pair(p.sequences.size() - p.held_out, p.held_out); }, [](std::size_t) { return 1.0; });
  }

 private:
  struct part {
    token_sequences sequences;
    extent_t held_out;
    extent_t first;  // number of its first sequence among all
  };

  // At least one sequence is held out where there are two, and one is always left to train on, unless everything is to be held out.
  extent_t held_out_of(extent_t sequences) const {
    if (share_ == 1) return sequences;
    if (share_ == 0 || sequences < 2) return 0;
    return std::clamp(extent_t(std::llround(double(sequences) * share_)), extent_t{1}, sequences - 1);
  }
  static std::int64_t largest_of(const token_source& from) {
    std::int32_t largest = 0;
    for_each_block(from, 0, from.size(), [&](extent_t, std::span<const std::int32_t> tokens) {
      for (const std::int32_t token : tokens) largest = std::max(largest, token);
    });
    return largest;
  }
  void copy(extent_t index, std::span<std::int32_t> tokens, std::span<std::int32_t> labels, std::span<std::int32_t> starts) const {
    const extent_t s = sequence();
    require(extent_t(tokens.size()) == s && extent_t(labels.size()) == s && (starts.empty() || extent_t(starts.size()) == s),
            "moefold: a sample fills tokens [", s, "] and labels [", s, "] (given [", tokens.size(), "] and [", labels.size(), "])");
    std::size_t source = parts_.size() - 1;
    while (parts_[source].first > index) --source;
    const token_sequences& from = parts_[source].sequences;
    from.read(index - parts_[source].first, tokens, labels);
    if (!scanned_ && vocabulary_ > 0) check_vocabulary(from, index - parts_[source].first, tokens, labels);
    if (edit_) edit_(index, tokens, labels);
    if (starts.empty()) return;
    std::fill(starts.begin(), starts.end(), 0);
    if (document_end_ >= 0) document_starts(tokens, document_end_, starts);
    from.raise_starts(index - parts_[source].first, starts);
  }
  void check_vocabulary(const token_sequences& from, extent_t i, std::span<const std::int32_t> tokens,
                        std::span<const std::int32_t> labels) const {
    for (std::size_t k = 0; k < tokens.size(); ++k) {
      if (std::max(tokens[k], labels[k]) < vocabulary_) continue;
      const bool label = tokens[k] < vocabulary_;
      throw config_error(sentence("moefold: ", from.tokens().describe(from.place_of(i, extent_t(k)) + label), " is ",
                                  label ? labels[k] : tokens[k], " and the model has a vocabulary of ", vocabulary_,
                                  "; give the model a larger vocabulary, or other data"));
    }
  }
  template <class Range, class Weight>
  double entropy(Range range, Weight weight) const {
    if (!scanned_) return std::numeric_limits<double>::quiet_NaN();
    token_frequencies seen;
    const std::size_t s = std::size_t(sequence());
    std::vector<std::int32_t> tokens(s), labels(s);
    for (std::size_t source = 0; source < parts_.size(); ++source) {
      const auto [first, count] = range(parts_[source]);
      for (extent_t i = first; i < first + count; ++i) {
        parts_[source].sequences.read(i, tokens, labels);
        for (const std::int32_t label : labels)
          if (label >= 0) seen.add(label, weight(source));
      }
    }
    return seen.entropy();
  }

  std::vector<part> parts_;
  token_blend blend_;
  std::int32_t document_end_ = -1;
  std::uint64_t seed_;
  double share_;
  bool shuffle_;
  edit_function edit_;
  extent_t tokens_ = 0, training_ = 0, held_out_ = 0, vocabulary_ = 0;
  bool documents_ = false, scanned_ = false;
  std::int64_t largest_ = 0;  // token of all sources; where they were not scanned, the largest they could have
};

}  // namespace moefold
