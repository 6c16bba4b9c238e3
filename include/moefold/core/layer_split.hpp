#pragma once
// How the layers of a model are shared out over pipeline stages: as even as whole layers allow, by given counts, or with embedding and head weighing
// as much as a layer. With several chunks per stage (interleaving) it is the virtual stages that are shared out over.
//
//   virtual stage chunk * stages + stage:    stages 2, chunks 2, layers 6:    stage 0 [0 1] [4]     stage 1 [2 3] [5]
//   even             the first take one more where it does not divide: the last one also carries the head
//   layer_counts({3, 2, 1})      as given, one number for each virtual stage; 0 is allowed: a stage of embedding or head alone
//   embedding_weighs, head_weighs    layers 7, stages 3, both: [0 1] [2 3 4] [5 6]
#include <moefold/core/error.hpp>

#include <array>
#include <initializer_list>
#include <string>

namespace moefold {

struct layer_range {
  extent_t first = 0;
  extent_t count = 0;
  constexpr bool operator==(const layer_range&) const = default;
};

struct layer_split {
  static constexpr std::size_t most = 128;  // virtual stages whose counts can be given

  extent_t chunks = 1;  // of every stage; a trainer takes them from its schedule
  bool embedding_weighs = false, head_weighs = false;
  extent_t given = 0;                   // how many counts are given; 0: even
  std::array<extent_t, most> counts{};  // layers of each virtual stage

  constexpr bool operator==(const layer_split&) const = default;
};

/// Throws config_error if there are more than layer_split::most.
constexpr layer_split layer_counts(std::initializer_list<extent_t> counts) {
  layer_split split;
  require<config_error>(counts.size() <= layer_split::most, "moefold: layer counts are given for at most ", layer_split::most,
                        " virtual stages (given ", counts.size(), ")");
  for (const extent_t count : counts) split.counts[std::size_t(split.given++)] = count;
  return split;
}

/// The layers of one virtual stage of `virtual_stages`.
constexpr layer_range layers_of(const layer_split& split, extent_t layers, extent_t virtual_stages, extent_t virtual_stage) {
  if (split.given > 0) {
    layer_range own{0, split.counts[std::size_t(virtual_stage)]};
    for (extent_t v = 0; v < virtual_stage; ++v) own.first += split.counts[std::size_t(v)];
    return own;
  }
  const extent_t units = layers + extent_t(split.embedding_weighs) + extent_t(split.head_weighs);
  const auto before = [&](extent_t v) {  // layers of the virtual stages before v
    return v * (units / virtual_stages) + (v < units % virtual_stages ? v : units % virtual_stages) -
           extent_t(split.embedding_weighs && v > 0) - extent_t(split.head_weighs && v == virtual_stages);
  };
  return {before(virtual_stage), before(virtual_stage + 1) - before(virtual_stage)};
}

/// Fewest layers that leave no stage without any work; 1 where counts are given.
constexpr extent_t least_layers(const layer_split& split, extent_t stages) {
  if (split.given > 0) return 1;
  const extent_t needed = stages * split.chunks - extent_t(split.embedding_weighs) - extent_t(split.head_weighs);
  return needed > 1 ? needed : 1;
}

/// Throws config_error if given counts are not those of these layers and stages.
constexpr void check(const layer_split& split, extent_t layers, extent_t stages) {
  require<config_error>(split.chunks >= 1, "moefold: a stage has at least 1 chunk of layers (given ", split.chunks, ")");
  if (split.given == 0) return;
  require<config_error>(split.given == stages * split.chunks, "moefold: ", stages, " stages of ", split.chunks, " chunks need ",
                        stages * split.chunks, " layer counts (given ", split.given, "); give one for each virtual stage, in their order");
  require<config_error>(!split.embedding_weighs && !split.head_weighs,
                        "moefold: given layer counts leave nothing to weigh; leave out embedding_weighs and head_weighs");
  extent_t sum = 0;
  for (extent_t v = 0; v < split.given; ++v) {
    const extent_t count = split.counts[std::size_t(v)];
    require<config_error>(count >= 0, "moefold: a virtual stage holds 0 layers or more (given ", count, " as number ", v, ")");
    sum += count;
  }
  require<config_error>(sum == layers, "moefold: the layer counts add up to ", sum, " and the model has ", layers, " layers");
}

/// "even"; "even, embedding and head weigh as layers"; "3 2 1"
inline std::string describe(const layer_split& split) {
  std::string text;
  for (extent_t v = 0; v < split.given; ++v) text += (v ? " " : "") + std::to_string(split.counts[std::size_t(v)]);
  if (split.given > 0) return text;
  const bool both = split.embedding_weighs && split.head_weighs;
  return both                   ? "even, embedding and head weigh as layers"
       : split.embedding_weighs ? "even, the embedding weighs as a layer"
       : split.head_weighs      ? "even, the head weighs as a layer"
                                : "even";
}

}  // namespace moefold
