#pragma once
// Files of token ids. One class reads them all: integers of one kind, in runs that lie anywhere in the file; a format is how to find the runs.
//
//   bytes, u16, u32    | tokens ........................ |       plain, little-endian
//   llmc               | header, 1024 B | tokens ........ |       of llm.c: u16 of GPT-2, u32 of Llama 3
//   megatron           .idx: lengths, places, documents    .bin: | sequence | sequence | ...     (train/token_index.hpp)
#include <moefold/checkpoint/bytes.hpp>
#include <moefold/checkpoint/posix_storage.hpp>
#include <moefold/train/token_source.hpp>

#include <cstring>
#include <string_view>

namespace moefold {

enum class data_format : std::uint8_t { bytes, u16, u32, megatron, llmc };
inline constexpr const char* data_format_names[] = {"bytes", "u16", "u32", "megatron", "llmc"};
constexpr const char* name_of(data_format format) { return data_format_names[std::size_t(format)]; }
/// Throws config_error, which lists the names, if there is none like it.
inline data_format data_format_of(std::string_view name) {
  for (std::size_t i = 0; i < std::size(data_format_names); ++i)
    if (name == data_format_names[i]) return data_format(i);
  require<config_error>(false, "moefold: there is no data format '", shown_text(name), "'; choose bytes, u16, u32, megatron or llmc");
  return {};
}

enum class token_kind : std::uint8_t { u8, i8, u16, i16, u32, i32, i64 };

/// Calls f(T{}) with the integer type of a kind; its result.
template <class F>
auto of_kind(token_kind kind, F&& f) {
  switch (kind) {
    case token_kind::u8: return f(std::uint8_t{});
    case token_kind::i8: return f(std::int8_t{});
    case token_kind::u16: return f(std::uint16_t{});
    case token_kind::i16: return f(std::int16_t{});
    case token_kind::u32: return f(std::uint32_t{});
    case token_kind::i32: return f(std::int32_t{});
    case token_kind::i64: break;
  }
  return f(std::int64_t{});
}
inline std::uint64_t bytes_of(token_kind kind) {
  return of_kind(kind, [](auto t) { return std::uint64_t(sizeof t); });
}

/// An open file of tokens. Every read is one call of the storage for each run and 16 KiB; nothing is kept, nothing allocated.
class token_file final : public token_source {
 public:
  struct run {
    extent_t first = 0;      // its first token
    std::uint64_t byte = 0;  // and where that is
  };

  /// Runs ascend in tokens, the first begins with token 0, and each of them lies inside the file: whoever found them has checked it.
  token_file(std::unique_ptr<storage_file> file, token_kind kind, extent_t tokens, std::vector<run> runs,
             std::vector<extent_t> documents = {0})
      : file_(std::move(file)), bytes_(file_->size()), kind_(kind), size_(tokens), runs_(std::move(runs)) {
    documents_ = std::move(documents);
    require_file(size_ > 0, file_->path(), 0, "has no tokens; leave it out or fill it");
  }

  extent_t size() const override { return size_; }
  void read(extent_t first, std::span<std::int32_t> to) const override {
    check_range(first, to.size());
    const std::uint64_t now = file_->size();
    require_file(now == bytes_, file_->path(), std::min(now, bytes_), "has ", now, " bytes and had ", bytes_,
                 " when it was opened; start again once nobody changes it");
    std::array<std::byte, 1 << 14> block;
    const std::uint64_t width = bytes_of(kind_);
    while (!to.empty()) {
      const auto after = std::upper_bound(runs_.begin(), runs_.end(), first, [](extent_t t, const run& r) { return t < r.first; });
      const run& in = *(after - 1);
      const extent_t left = (after == runs_.end() ? size_ : after->first) - first;
      const std::size_t count = std::min({to.size(), std::size_t(left), block.size() / std::size_t(width)});
      const std::uint64_t byte = in.byte + std::uint64_t(first - in.first) * width;
      const auto bytes = std::span(block).first(count * std::size_t(width));
      file_->read(byte, bytes);
      of_kind(kind_, [&](auto t) { convert<decltype(t)>({bytes, file_->path(), byte}, to.first(count)); });
      to = to.subspan(count);
      first += extent_t(count);
    }
  }
  std::int64_t largest_possible() const override {
    return of_kind(kind_, [](auto t) {
      return std::int64_t(std::min<std::uint64_t>(std::uint64_t(std::numeric_limits<decltype(t)>::max()),
                                                  std::uint64_t(std::numeric_limits<std::int32_t>::max())));
    });
  }
  std::string describe(extent_t token) const override { return sentence("token ", token, " of '", file_->path(), "'"); }
  const std::vector<run>& runs() const { return runs_; }

 private:
  template <class T>
  static void convert(const file_bytes& from, std::span<std::int32_t> to) {
    for (std::size_t i = 0; i < to.size(); ++i) {
      const T value = load<T>(from.bytes, i * sizeof(T));
      require_file(std::in_range<std::uint32_t>(value) && std::in_range<std::int32_t>(value), from.file, from.first + i * sizeof(T),
                   "there is ", value, ", and a token id lies in 0 .. 2^31 - 1; is the file of another format?");
      to[i] = std::int32_t(value);
    }
  }

  std::unique_ptr<storage_file> file_;
  std::uint64_t bytes_;  // of the file when it was opened
  token_kind kind_;
  extent_t size_;
  std::vector<run> runs_;
};

/// A file that is nothing but tokens.
inline shared_tokens open_plain_tokens(storage& from, const std::string& path, token_kind kind) {
  auto file = from.open(path);
  const std::uint64_t size = file->size(), width = bytes_of(kind);
  require_file(size % width == 0, path, size - size % width, "ends inside a token: ", size, " bytes are not tokens of ", width,
               " bytes; is it of another format, or cut short?");
  return std::make_shared<token_file>(std::move(file), kind, extent_t(size / width), std::vector<token_file::run>{{0, 0}});
}

/// A token file of llm.c (dev/data/data_common.py): 256 numbers of 4 bytes, of which 0 is the kind of file, 1 its version and 2 the number of tokens.
inline shared_tokens open_llmc_tokens(storage& from, const std::string& path) {
  constexpr std::uint64_t header_bytes = 1024;
  auto file = from.open(path);
  const std::uint64_t size = file->size();
  require_file(size >= header_bytes, path, size, "is shorter than the 1024 bytes that an llm.c file begins with");
  std::array<std::byte, header_bytes> header;
  file->read(0, header);
  const file_bytes block{header, path};
  const auto magic = load<std::int32_t>(block, 0), version = load<std::int32_t>(block, 4), tokens = load<std::int32_t>(block, 8);
  const bool gpt2 = magic == 20240520, llama3 = magic == 20240801;
  require_file(gpt2 || llama3, path, 0, "there is ", magic, ", and an llm.c token file begins with 20240520 (u16) or 20240801 (u32)");
  require_file(version == (gpt2 ? 1 : 7), path, 4, "has version ", version, ", needed ", gpt2 ? 1 : 7);
  require_file(tokens > 0, path, 8, "says it has ", tokens, " tokens");
  const token_kind kind = gpt2 ? token_kind::u16 : token_kind::u32;
  const std::uint64_t needed = header_bytes + std::uint64_t(tokens) * bytes_of(kind);
  require_file(size == needed, path, 8, "says it has ", tokens, " tokens of ", bytes_of(kind), " bytes: ", needed,
               " bytes with its header, and has ", size, "; it is cut short or damaged");
  return std::make_shared<token_file>(std::move(file), kind, extent_t(tokens), std::vector<token_file::run>{{0, header_bytes}});
}

}  // namespace moefold
