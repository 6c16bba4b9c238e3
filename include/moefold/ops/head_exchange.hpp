#pragma once
// The copies around an exchange of attention heads for sequence (attention/cp_all_to_all.hpp): tensors of all heads are packed into one message per
// peer, and what arrives lies rank after rank. Also the transpose that puts one number per head and token into the order of tokens.
//
//   by heads       [tokens, heads, d]                       the tokens of this rank, all heads
//   by sequence    [ranks * tokens, heads / ranks, d]       the tokens of rank after rank, the heads of this one
//   message        peer 0: | tensor 0 | tensor 1 | .. |     peer 1: | tensor 0 | tensor 1 | .. |        tensor i of a peer: [tokens, heads / ranks, d]
#include <moefold/ops/rows.hpp>

#include <array>

namespace moefold {

/// Where one tensor lies in the messages of all peers.
struct head_message {
  extent_t tokens, heads, dim;  // of the tensor by heads; heads a multiple of ranks
  extent_t ranks;
  extent_t message;  // elements of one peer's message, of all tensors
  extent_t before;   // elements of the tensors before this one in it

  constexpr MOEFOLD_HD extent_t elements() const { return tokens * heads * dim; }
  constexpr MOEFOLD_HD extent_t run() const { return heads / ranks * dim; }  // elements that stay together
  /// Element i of the tensor by heads, in the messages.
  constexpr MOEFOLD_HD extent_t of_heads(extent_t i) const {
    const extent_t token = i / (heads * dim), along = i % (heads * dim), peer = along / run();
    return peer * message + before + token * run() + along % run();
  }
  /// Element i of the tensor by sequence, in the messages.
  constexpr MOEFOLD_HD extent_t of_sequence(extent_t i) const {
    const extent_t own = tokens * run();
    return i / own * message + before + i % own;
  }
};

/// The maps of several tensors [.., heads, d] that travel together. `s`: shapes by heads, [S, B, heads, d].
template <std::size_t N>
constexpr std::array<head_message, N> head_messages(const std::array<shape, N>& s, extent_t ranks) {
  std::array<head_message, N> maps{};
  extent_t before = 0;
  for (std::size_t i = 0; i < N; ++i) {
    require(s[i].rank == 4 && s[i][2] % ranks == 0, "moefold: heads are exchanged among ", ranks,
            " ranks by tensors [S, B, heads, d], given ", s[i].text(), "; the heads must be a multiple of the ranks");
    maps[i] = {s[i][0] * s[i][1], s[i][2], s[i][3], ranks, 0, before};
    before += maps[i].elements() / ranks;
  }
  for (head_message& m : maps) m.message = before;
  return maps;
}

/// in, by heads -> its pieces of the messages.
template <class T>
void pack_heads(host_exec, const head_message& m, input<T> in, view<T> messages) {
  require_count("pack_heads", "in", in.size(), m.elements());
  require_count("pack_heads", "messages", messages.size(), m.ranks * m.message);
  for (extent_t i = 0; i < m.elements(); i += m.run()) std::copy_n(in.data() + i, m.run(), messages.data() + m.of_heads(i));
}
/// The way back: the pieces of the messages -> out, by heads.
template <class T>
void unpack_heads(host_exec, const head_message& m, input<T> messages, view<T> out) {
  require_count("unpack_heads", "out", out.size(), m.elements());
  require_count("unpack_heads", "messages", messages.size(), m.ranks * m.message);
  for (extent_t i = 0; i < m.elements(); i += m.run()) std::copy_n(messages.data() + m.of_heads(i), m.run(), out.data() + i);
}
/// in, by sequence -> its pieces of the messages.
template <class T>
void pack_sequence(host_exec, const head_message& m, input<T> in, view<T> messages) {
  require_count("pack_sequence", "in", in.size(), m.elements());
  require_count("pack_sequence", "messages", messages.size(), m.ranks * m.message);
  const extent_t own = m.tokens * m.run();
  for (extent_t i = 0; i < m.elements(); i += own) std::copy_n(in.data() + i, own, messages.data() + m.of_sequence(i));
}
/// The way back: the pieces of the messages -> out, by sequence.
template <class T>
void unpack_sequence(host_exec, const head_message& m, input<T> messages, view<T> out) {
  require_count("unpack_sequence", "out", out.size(), m.elements());
  require_count("unpack_sequence", "messages", messages.size(), m.ranks * m.message);
  const extent_t own = m.tokens * m.run();
  for (extent_t i = 0; i < m.elements(); i += own) std::copy_n(messages.data() + m.of_sequence(i), own, out.data() + i);
}

/// in [rows, columns] -> out [columns, rows].
template <class T>
void transpose(host_exec, extent_t rows, extent_t columns, input<T> in, view<T> out) {
  require_count("transpose", "in", in.size(), rows * columns);
  require_count("transpose", "out", out.size(), rows * columns);
  for (extent_t i = 0; i < rows; ++i)
    for (extent_t j = 0; j < columns; ++j) out.data()[j * rows + i] = in.data()[i * columns + j];
}

}  // namespace moefold
