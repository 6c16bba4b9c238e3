#pragma once
// What a checkpoint holds, without types: named pieces of tensors as bytes, small arrays that are the same on every rank, and notes. The trainer lists it.
//
//   tensors   "layers.3.moe.gate/weight"   piece: this rank's box and range   fp32   get, set: its elements
//   arrays    "data/cursor"                int64 [4]                                 written by rank 0
//   notes     "seed" -> "7"                                                          in the manifest
#include <moefold/checkpoint/manifest.hpp>

#include <functional>

namespace moefold {

/// What this rank owns of one tensor. The pieces of all ranks together hold each element that is no padding exactly once.
struct checkpoint_tensor {
  std::string name;
  tensor_piece piece;
  dtype type{};
  /// The piece's elements that are no padding, in order (mesh/slice.hpp, for_each_run), as `type`: fills all of the bytes, or takes them. Called by the rank's
  /// own thread, inside begin, save and load_checkpoint only.
  std::function<void(std::span<std::byte>)> get;
  std::function<void(std::span<const std::byte>)> set;

  std::size_t bytes() const { return std::size_t(unpadded(piece).range.size()) * std::size_t(element_bytes(type)); }
};

struct checkpoint_array {
  std::string name;
  dtype type{};
  std::vector<std::byte> bytes;

  friend bool operator==(const checkpoint_array&, const checkpoint_array&) = default;
};
/// An array of numbers, and its numbers again.
template <class T>
checkpoint_array array_of(std::string name, std::span<const T> values) {
  const auto bytes = std::as_bytes(values);
  return {std::move(name), dtype_of<T>, {bytes.begin(), bytes.end()}};
}
template <class T>
std::vector<T> values_of(const checkpoint_array& array) {
  require<config_error>(array.type == dtype_of<T>, "moefold: the array '", array.name, "' of the checkpoint has elements of ",
                        name_of(array.type), ", not ", name_of(dtype_of<T>));
  std::vector<T> values(array.bytes.size() / sizeof(T));
  load_all(array.bytes, std::span(values));
  return values;
}

struct checkpoint_content {
  std::int64_t step = 0;
  std::vector<checkpoint_tensor> tensors;
  std::vector<checkpoint_array> arrays;      // the same on all ranks
  std::map<std::string, std::string> notes;  // the same on all ranks; rank 0's are written
};

}  // namespace moefold
