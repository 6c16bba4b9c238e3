#pragma once
// Megatron's indexed data sets: x.bin holds tokens, x.idx where each sequence lies in it and which sequences make a document. The index is read once, in
// blocks, and every number in it is checked; what is kept of it is the runs of sequences that follow one another in x.bin: one, as Megatron writes them.
//
//   x.idx   "MMIDIDX\0\0" 9 | version 8 | kind 1 | sequences 8 | documents 8     34 bytes, so that no array is aligned
//           lengths    [sequences]  i32    tokens
//           places     [sequences]  i64    bytes in x.bin, ascending, without overlap
//           documents  [documents]  i64    sequence with which each begins, from 0; the last is the number of sequences
//           modes      [sequences]  i8     may be absent; not looked at
// Source: Megatron-LM, megatron/core/datasets/indexed_dataset.py.
#include <moefold/train/token_file.hpp>

namespace moefold {

namespace detail {

/// `count` numbers of a file one after another, read in blocks.
template <class T>
class numbers_of_file {
 public:
  numbers_of_file(storage_file& file, std::uint64_t first, std::uint64_t count) : file_(file), next_(first), left_(count) {}
  T operator()() {
    if (at_ == block_.size()) {
      require(left_ > 0, "moefold: '", file_.path(), "' has no number left to read");
      block_.resize(std::size_t(std::min<std::uint64_t>(left_, (1 << 16) / sizeof(T)) * sizeof(T)));
      file_.read(next_, block_);
      next_ += block_.size();
      left_ -= block_.size() / sizeof(T);
      at_ = 0;
    }
    const T value = load<T>(std::span<const std::byte>(block_), at_);
    at_ += sizeof(T);
    return value;
  }
  std::uint64_t place() const { return next_ - block_.size() + at_ - sizeof(T); }  // byte of the number read last

 private:
  storage_file& file_;
  std::uint64_t next_, left_;  // of what was not read from the file yet
  std::vector<std::byte> block_;
  std::size_t at_ = 0;
};

inline token_kind megatron_kind(int code, const std::string& file, std::uint64_t byte) {
  switch (code) {
    case 1: return token_kind::u8;
    case 2: return token_kind::i8;
    case 3: return token_kind::i16;
    case 4: return token_kind::i32;
    case 5: return token_kind::i64;
    case 8: return token_kind::u16;
    default: break;
  }
  const bool floating = code == 6 || code == 7;
  require_file(false, file, byte, "the kind of number is ", code, floating ? ", floating point" : ", which is none",
               "; tokens are 1 (u8), 2 (i8), 3 (i16), 4 (i32), 5 (i64) or 8 (u16)");
  return {};
}

}  // namespace detail

/// "x" of "x", "x.idx" or "x.bin".
inline std::string megatron_prefix(const std::string& path) {
  const bool suffixed = path.size() > 4 && (path.ends_with(".idx") || path.ends_with(".bin"));
  return suffixed ? path.substr(0, path.size() - 4) : path;
}

/// The tokens of all sequences, in order. `path` with or without its suffix. keep_documents: remember where documents begin, 8 bytes for each.
/// Throws format_error for an index that contradicts itself, its own size or the size of its .bin. Time is linear in the index.
inline shared_tokens open_megatron_tokens(storage& from, const std::string& path, bool keep_documents = false) {
  constexpr std::uint64_t header_bytes = 34;
  constexpr std::string_view magic("MMIDIDX\0\0", 9);
  const std::string prefix = megatron_prefix(path), name = prefix + ".idx";
  auto index = from.open(name);
  auto bin = from.open(prefix + ".bin");
  const std::uint64_t size = index->size(), bin_bytes = bin->size();

  require_file(size >= header_bytes, name, size, "is shorter than the 34 bytes that an index begins with");
  std::array<std::byte, header_bytes> header;
  index->read(0, header);
  const file_bytes block{header, name};
  require_file(text_of(span_at(block, 0, magic.size())) == magic, name, 0, "does not begin with MMIDIDX: it is no index of Megatron");
  const auto version = load<std::uint64_t>(block, 9);
  require_file(version == 1, name, 9, "has version ", version, ", needed 1");
  const token_kind kind = detail::megatron_kind(load<std::uint8_t>(block, 17), name, 17);
  const auto sequences = load<std::uint64_t>(block, 18), documents = load<std::uint64_t>(block, 26);

  const auto lengths_bytes = checked_mul(sequences, 4), places_bytes = checked_mul(sequences, 8),
             documents_bytes = checked_mul(documents, 8);
  std::optional<std::uint64_t> needed = header_bytes;
  for (const auto& part : {lengths_bytes, places_bytes, documents_bytes})
    needed = needed && part ? checked_add(*needed, *part) : std::nullopt;
  require_file(needed && *needed <= size && (size == *needed || size - *needed == sequences), name, 18, "says it has ", sequences,
               " sequences and ", documents, " document marks: ", needed ? std::to_string(*needed) : std::string("more than 2^64"),
               " bytes, or with modes one more for each sequence, and has ", size, "; it is cut short or damaged");
  require_file(documents >= 1, name, 26, "has no document marks; there is one at 0 and one at the end of every document");

  detail::numbers_of_file<std::int32_t> lengths(*index, header_bytes, sequences);
  detail::numbers_of_file<std::int64_t> places(*index, header_bytes + *lengths_bytes, sequences);
  detail::numbers_of_file<std::int64_t> marks(*index, header_bytes + *lengths_bytes + *places_bytes, documents);
  const std::uint64_t width = bytes_of(kind);
  std::vector<token_file::run> runs;
  std::vector<extent_t> starts;
  std::int64_t mark = marks();
  require_file(mark == 0, name, marks.place(), "the first document begins with sequence ", mark, ", needed 0");
  std::uint64_t marks_left = documents - 1;
  const auto next_mark = [&] {
    const std::int64_t next = marks();
    require_file(next >= mark && std::uint64_t(next) <= sequences, name, marks.place(), "a document begins with sequence ", next,
                 " after one that begins with ", mark, ", of ", sequences, " sequences; marks ascend");
    mark = next, --marks_left;
  };
  std::uint64_t tokens = 0, end = 0, run_end = 0;  // bytes after the sequence before, and after the last one with tokens
  for (std::uint64_t s = 0; s < sequences; ++s) {
    const std::int32_t length = lengths();
    require_file(length >= 0, name, lengths.place(), "sequence ", s, " has ", length, " tokens");
    const std::int64_t given = places();
    const std::uint64_t place = std::uint64_t(given), bytes = std::uint64_t(length) * width;
    require_file(given >= 0 && place % width == 0, name, places.place(), "sequence ", s, " begins at byte ", given,
                 " of the .bin, needed a multiple of ", width);
    require_file(place >= end, name, places.place(), "sequence ", s, " begins at byte ", place, " of the .bin, and the one before ends at ",
                 end, "; places ascend and do not overlap");
    require_file(place <= bin_bytes && bytes <= bin_bytes - place, name, places.place(), "sequence ", s, " has ", length, " tokens of ",
                 width, " bytes from byte ", place, " of the .bin, which has ", bin_bytes,
                 "; it is cut short, or belongs to another index");
    end = place + bytes;
    if (keep_documents && std::uint64_t(mark) == s && (starts.empty() || starts.back() < extent_t(tokens)))
      starts.push_back(extent_t(tokens));
    while (marks_left > 0 && std::uint64_t(mark) <= s) next_mark();
    if (length == 0) continue;
    if (runs.empty() || place != run_end) runs.push_back({extent_t(tokens), place});
    tokens += std::uint64_t(length);
    run_end = end;
  }
  while (marks_left > 0) next_mark();
  require_file(std::uint64_t(mark) == sequences, name, marks.place(), "the last document ends with sequence ", mark, ", needed ",
               sequences);
  if (starts.empty()) starts = {0};
  if (starts.size() > 1 && std::uint64_t(starts.back()) == tokens) starts.pop_back();  // of documents without tokens, at the end
  return std::make_shared<token_file>(std::move(bin), kind, extent_t(tokens), std::move(runs), std::move(starts));
}

}  // namespace moefold
