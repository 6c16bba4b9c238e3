#include <moefold/train/batch_loader.hpp>

#include <doctest/doctest.h>

#include <map>

using namespace moefold;

namespace {

constexpr extent_t sequence = 16;

dataset counting_data() {
  std::string bytes;
  for (int i = 0; i < 700; ++i) bytes += char(i * i / 7 % 251);
  return dataset(token_stream::from_bytes(bytes), sequence, 3, 0.2);
}
const folding_extents folded = make_folding({{axis_id::tp, 2}, {axis_id::cp, 2}, {axis_id::dp, 2}}, {{axis_id::ep, 8}});

}  // namespace

TEST_SUITE("train/batch_loader") {
  TEST_CASE("the ranks of a folding hold every token of every sample of the step, each at its place, and count each label once") {
    const dataset data = counting_data();
    std::map<std::pair<extent_t, extent_t>, std::int32_t> seen;  // (sample, position) -> label
    std::int64_t counted = 0;
    for (extent_t rank = 0; rank < folded.world(); ++rank) {
      batch_loader loader(data, sequence, folded, rank, 8, 2, 1);
      counted += loader.load({16}, 2)[0];
      for (const micro_batch& m : loader.batches()) {
        CHECK(m.training);
        CHECK(m.place.step == 2);
        const extent_t part = m.place.part.cp_tokens();
        for (extent_t i = 0; i < part; ++i)
          for (extent_t b = 0; b < 2; ++b) seen[{m.place.first_sample + b, m.place.part.position(i)}] = m.labels[std::size_t(i * 2 + b)];
      }
    }
    CHECK(counted == 8 * sequence);
    REQUIRE(seen.size() == 8 * sequence);
    std::vector<std::int32_t> tokens(sequence), labels(sequence);
    for (const auto& [where, label] : seen) {
      data.training_sample(16 + where.first, tokens, labels);
      CHECK(label == labels[std::size_t(where.second)]);
    }
  }

  TEST_CASE("samples from the end of a range on are padding: they count nothing and have no label") {
    const dataset data = counting_data();
    batch_loader loader(data, sequence, {}, 0, 4, 1, 1);
    CHECK(loader.load({0, 3, true}, 0) == batch_loader::token_counts{3 * sequence, 3 * sequence});
    CHECK(!loader.batches()[0].training);
    CHECK(loader.batches()[2].padding[0] == 0);
    CHECK(loader.batches()[3].padding[0] == 1);
    CHECK(loader.batches()[3].labels[0] == -1);
    CHECK(loader.load({0, 4, true}, 0)[0] == 4 * sequence);
  }

  TEST_CASE("a text is the first sequence of the first data-parallel rank, behind it padding, and nothing else is there") {
    const dataset data = counting_data();
    const std::vector<std::int32_t> text{5, 6, 7};
    for (extent_t rank : {extent_t{0}, extent_t{4}}) {  // dp 0 and dp 1
      batch_loader loader(data, sequence, folded, rank, 8, 2, 1);
      CHECK(loader.load_text(text, 0) == (rank == 0));
      const micro_batch& m = loader.batches()[0];
      for (extent_t i = 0; i < m.place.part.cp_tokens(); ++i) {
        const extent_t position = m.place.part.position(i);
        const bool there = rank == 0 && position < 3;
        CHECK(m.ids[std::size_t(2 * i)] == (there ? text[std::size_t(position)] : 0));
        CHECK((m.padding[std::size_t(2 * i)] == 0) == there);
        CHECK(m.padding[std::size_t(2 * i + 1)] == 1);
        CHECK(m.labels[std::size_t(2 * i)] == -1);
      }
    }
    batch_loader loader(data, sequence, {}, 0, 1, 1, 1);
    CHECK_THROWS_AS(loader.load_text(std::vector<std::int32_t>(sequence + 1), 0), error);
  }
}
