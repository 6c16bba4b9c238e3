#pragma once
// Sequences of S tokens and their labels, made from a row of tokens: cut one after another, or packed with whole documents.
//
//   cut       |--- 0 ---|--- 1 ---| ... |--- n-1 ---|            sequence i: tokens [i*S, i*S + S), labels one further; documents end anywhere
//   packed    |  doc 0  | doc 2 | pad |  doc 1     | d 4 | ...   documents of at most S tokens are not cut, longer ones every S tokens
#include <moefold/train/token_source.hpp>

#include <set>

namespace moefold {

/// What a document is, besides a sequence as such.
struct document_rule {
  std::int32_t end = -1;   // documents end after this token; -1: no token ends one
  bool of_source = false;  // and where the source says so
  bool pack = false;       // sequences are packed with them, instead of cut
  bool any() const { return end >= 0 || of_source || pack; }
};

/// Calls f(first, last) for the tokens [first, last) of each document, in order.
template <class F>
void for_each_document(const token_source& from, const document_rule& rule, F&& f) {
  const auto documents = rule.of_source ? from.documents() : from.documents().first(std::min<std::size_t>(1, from.documents().size()));
  for (std::size_t d = 0; d < documents.size(); ++d) {
    extent_t begin = documents[d];
    const extent_t end = d + 1 < documents.size() ? documents[d + 1] : from.size();
    if (rule.end >= 0)
      for_each_block(from, begin, end - begin, [&](extent_t first, std::span<const std::int32_t> tokens) {
        for (std::size_t i = 0; i < tokens.size(); ++i)
          if (tokens[i] == rule.end) f(begin, first + extent_t(i) + 1), begin = first + extent_t(i) + 1;
      });
    if (begin < end) f(begin, end);
  }
}

/// Reading is const and safe from many threads.
class token_sequences {
 public:
  /// Throws config_error if the data are too few for one sequence. Packing looks at every document once, and at every token if a token ends them.
  token_sequences(shared_tokens from, extent_t sequence, document_rule rule = {})
      : from_(std::move(from)), sequence_(sequence), rule_(rule) {
    require<config_error>(sequence >= 1 && sequence <= std::numeric_limits<std::int32_t>::max(),
                          "moefold: a sequence has at least 1 token, and at most 2^31 - 1 (given ", sequence, ")");
    if (rule_.pack)
      pack();
    else
      count_ = std::max(extent_t{0}, (from_->size() - 1) / sequence);
    require<config_error>(rule_.pack || count_ > 0, "moefold: the data have ", from_->size(), " tokens, one sequence of ", sequence,
                          " needs ", sequence + 1, "; give more data or a shorter sequence");
    require<config_error>(count_ > 0, "moefold: the data have no document of 2 tokens or more; give other data, or do not pack documents");
  }

  extent_t size() const { return count_; }
  extent_t sequence() const { return sequence_; }
  const token_source& tokens() const { return *from_; }
  const document_rule& documents() const { return rule_; }

  /// Sequence i: its tokens [S] and labels [S]. Packed, the rest of a sequence is padding: tokens and labels -1.
  void read(extent_t i, std::span<std::int32_t> tokens, std::span<std::int32_t> labels) const {
    std::size_t filled = 0;
    for_each_piece(i, [&](const piece& p) {
      const std::size_t count = std::size_t(p.count);
      const auto to = tokens.subspan(filled, count), next = labels.subspan(filled, count);
      from_->read(p.first, to);
      std::ranges::copy(to.subspan(1), next.begin());
      from_->read(p.first + p.count, next.last(1));
      filled += count;
    });
    std::ranges::fill(tokens.subspan(filled), -1);
    std::ranges::fill(labels.subspan(filled), -1);
  }

  /// Raises starts[k], of every token k of sequence i, to where its document begins as the source or the packing has it. Padding is a document of its own.
  void raise_starts(extent_t i, std::span<std::int32_t> starts) const {
    const auto raise = [&](std::size_t from, std::size_t count) {
      for (std::int32_t& start : starts.subspan(from, count)) start = std::max(start, std::int32_t(from));
    };
    const std::span<const extent_t> documents = rule_.of_source && !rule_.pack ? from_->documents() : std::span<const extent_t>();
    std::size_t filled = 0;
    for_each_piece(i, [&](const piece& p) {
      raise(filled, std::size_t(p.count));
      const extent_t last = p.first + p.count;
      for (auto d = std::upper_bound(documents.begin(), documents.end(), p.first); d != documents.end() && *d < last; ++d)
        raise(filled + std::size_t(*d - p.first), std::size_t(last - *d));
      filled += std::size_t(p.count);
    });
    raise(filled, starts.size() - filled);
  }

  /// Where among the source's tokens is token k of sequence i; -1 for padding.
  extent_t place_of(extent_t i, extent_t k) const {
    extent_t place = -1;
    for_each_piece(i, [&](const piece& p) {
      if (k >= 0 && k < p.count) place = p.first + k;
      k -= p.count;
    });
    return place;
  }

 private:
  struct piece {  // tokens with their labels: of a document of n tokens the first n - 1
    extent_t first = 0;
    extent_t count = 0;
  };

  template <class F>
  void for_each_piece(extent_t i, F&& f) const {
    require(i >= 0 && i < count_, "moefold: there is no sequence ", i, "; there are ", count_);
    if (!rule_.pack) return f(piece{i * sequence_, sequence_});
    for (std::size_t p = begins_[std::size_t(i)]; p < begins_[std::size_t(i) + 1]; ++p) f(pieces_[p]);
  }

  /// Best fit, in file order: a piece goes into the sequence with the least room that holds it, of those the first; into a new one where none does.
  void pack() {
    std::vector<piece> pieces;
    std::vector<extent_t> sequence_of;
    std::set<std::pair<extent_t, extent_t>> open;  // {room, sequence}
    for_each_document(*from_, rule_, [&](extent_t first, extent_t last) {
      for (extent_t at = first; at + 1 < last; at += sequence_) {
        const piece p{at, std::min(sequence_, last - 1 - at)};
        std::pair<extent_t, extent_t> into{sequence_, count_};
        if (const auto fits = open.lower_bound({p.count, 0}); fits != open.end())
          into = *fits, open.erase(fits);
        else
          ++count_;
        if (into.first > p.count) open.insert({into.first - p.count, into.second});
        pieces.push_back(p);
        sequence_of.push_back(into.second);
      }
    });
    begins_.assign(std::size_t(count_) + 1, 0);
    for (const extent_t s : sequence_of) ++begins_[std::size_t(s) + 1];
    for (std::size_t s = 0; s < std::size_t(count_); ++s) begins_[s + 1] += begins_[s];
    std::vector<std::size_t> next(begins_.begin(), begins_.end());
    pieces_.resize(pieces.size());
    for (std::size_t p = 0; p < pieces.size(); ++p) pieces_[next[std::size_t(sequence_of[p])]++] = pieces[p];
  }

  shared_tokens from_;
  extent_t sequence_;
  document_rule rule_;
  extent_t count_ = 0;
  std::vector<piece> pieces_;        // packed only: those of sequence i are
  std::vector<std::size_t> begins_;  // [begins[i], begins[i + 1])
};

}  // namespace moefold
