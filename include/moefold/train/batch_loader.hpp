#pragma once
// A rank's micro-batches, filled from the data: samples by number, cut to the rank's context part, padding and ignored labels marked.
//
//   sample   tokens [S], labels [S], document starts [S]  ->  sequence b of micro-batch m:  ids, labels, padding [S/CP, B], first [S, B]
//   Every data-parallel rank takes its own samples of the global batch (train/data.hpp: batch_part); all ranks of a pipeline take the same.
#include <moefold/attention/sequence_map.hpp>
#include <moefold/mesh/coordinate.hpp>
#include <moefold/model/transformer.hpp>
#include <moefold/train/data.hpp>

#include <algorithm>
#include <vector>

namespace moefold {

/// Samples that are read by number; those from `end` on are padding.
struct sample_range {
  extent_t first = 0, end = std::numeric_limits<extent_t>::max();
  bool held_out = false;  // of the held-out sequences, for evaluation: nothing is learnt from them
};

class batch_loader {
 public:
  using token_counts = std::array<std::int64_t, 2>;  // that count in the loss; that are not padding

  /// Local. `data` must outlive the loader; the global batch must be a multiple of dp * micro_batch.
  batch_loader(const dataset& data, extent_t sequence, const folding_extents& fold, extent_t rank, extent_t global_batch,
               extent_t micro_batch, std::uint64_t seed)
      : data_(data), seed_(seed), tokens_(std::size_t(sequence)), labels_(std::size_t(sequence)), starts_(std::size_t(sequence)),
        positions_(context_positions(sequence, fold.attention.of(axis_id::cp))) {
    const coordinate here = coordinate_of(fold.attention, rank);
    samples_ = {global_batch, micro_batch, fold.attention.of(axis_id::dp), here[axis_id::dp]};
    place_ = {0,
              0,
              micro_batch,
              {sequence, fold.attention.of(axis_id::cp), here[axis_id::cp], fold.attention.of(axis_id::tp), here[axis_id::tp]}};
    batches_.resize(std::size_t(samples_.micro_batches()));
  }

  /// Fills all micro-batches of a global batch; returns the counts of this rank's own tokens. A token below 0 is padding; its label is ignored.
  token_counts load(const sample_range& from, std::int64_t step) {
    token_counts counted{};
    for (extent_t m = 0; m < extent_t(batches_.size()); ++m) {
      begin(m, step, !from.held_out);
      const std::span<std::int32_t> starts = data_.has_documents() ? std::span(starts_) : std::span<std::int32_t>();
      for (extent_t b = 0; b < place_.batch; ++b) {
        const extent_t sample = from.first + samples_.sample(0, m, b);
        if (sample >= from.end)
          fill_with_padding();
        else if (from.held_out)
          data_.evaluation_sample(sample, tokens_, labels_, starts);
        else
          data_.training_sample(sample, tokens_, labels_, starts);
        place(m, b);
      }
      const micro_batch& to = batches_[std::size_t(m)];
      const extent_t own = place_.part.local_tokens() * place_.batch, first = place_.part.tp_rank * own;
      counted[0] +=
          std::count_if(to.labels.begin() + first, to.labels.begin() + first + own, [](std::int32_t label) { return label >= 0; });
      counted[1] += std::count(to.padding.begin() + first, to.padding.begin() + first + own, 0);
    }
    return counted;
  }

  /// Fills micro-batch 0 with one text as its first sequence, on the first data-parallel rank; all else is padding, and no label counts. Returns whether this
  /// rank's micro-batch holds the text.
  bool load_text(std::span<const std::int32_t> text, std::int64_t step) {
    require(text.size() <= tokens_.size(), "moefold: a text of ", text.size(), " tokens does not fit into a sequence of ", tokens_.size(),
            "; give its last ", tokens_.size());
    begin(0, step, false);
    for (extent_t b = 0; b < place_.batch; ++b) {
      fill_with_padding();
      if (b == 0 && samples_.rank == 0) std::copy(text.begin(), text.end(), tokens_.begin());
      place(0, b);
    }
    return samples_.rank == 0;
  }

  std::vector<micro_batch>& batches() { return batches_; }
  const std::vector<micro_batch>& batches() const { return batches_; }
  const batch_place& place() const { return place_; }

 private:
  void begin(extent_t m, std::int64_t step, bool training) {
    const std::size_t elements = std::size_t(place_.part.cp_tokens() * place_.batch);
    micro_batch& to = batches_[std::size_t(m)];
    to.place = place_;
    to.place.step = step;
    to.place.first_sample = samples_.sample(0, m, 0);
    to.ids.resize(elements);
    to.labels.resize(elements);
    to.padding.assign(elements, 0);
    to.first.resize(data_.has_documents() ? positions_.size() * std::size_t(place_.batch) : 0);
    to.index = m;
    to.seed = seed_;
    to.training = training;
  }
  void fill_with_padding() {
    std::fill(tokens_.begin(), tokens_.end(), -1);
    std::fill(labels_.begin(), labels_.end(), -1);
    std::fill(starts_.begin(), starts_.end(), 0);
  }
  /// This CP part of tokens_ and labels_ becomes sequence b of micro-batch m.
  void place(extent_t m, extent_t b) {
    micro_batch& to = batches_[std::size_t(m)];
    const std::size_t batch = std::size_t(place_.batch);
    if (!to.first.empty())
      for (std::size_t i = 0; i < positions_.size(); ++i) to.first[i * batch + std::size_t(b)] = starts_[std::size_t(positions_[i])];
    for (extent_t i = 0; i < place_.part.cp_tokens(); ++i) {
      const std::size_t position = std::size_t(place_.part.position(i)), at = std::size_t(i) * batch + std::size_t(b);
      const bool padding = tokens_[position] < 0;
      to.padding[at] = padding;
      to.ids[at] = padding ? 0 : tokens_[position];
      to.labels[at] = padding ? -1 : labels_[position];
    }
  }

  const dataset& data_;
  std::uint64_t seed_;
  std::vector<std::int32_t> tokens_, labels_, starts_;  // [S], by position
  std::vector<std::int32_t> positions_;                 // [S], rank after rank of cp
  batch_part samples_{};
  batch_place place_{};
  std::vector<micro_batch> batches_;
};

}  // namespace moefold
