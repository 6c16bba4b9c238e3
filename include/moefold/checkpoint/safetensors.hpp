#pragma once
// The safetensors file format: a header of JSON that says where each tensor lies, then the tensors, little-endian and row-major. The reader believes
// nothing before it has checked it; the writer lays tensors out as the Python package does.
//
//   | N, u64 | {"__metadata__":{"format":"pt"},"w":{"dtype":"BF16","shape":[4,8],"data_offsets":[0,64]}, ...}   | w ... | b | ...  |
//     8 bytes  N <= 100,000,000 bytes, begins with '{', padded with spaces                                       data: no hole, no overlap, no rest
#include <moefold/checkpoint/json.hpp>
#include <moefold/checkpoint/storage.hpp>
#include <moefold/checkpoint/text_list.hpp>

#include <array>
#include <map>
#include <numeric>
#include <tuple>

namespace moefold {

/// Element types of a file, in the order in which a writer sorts them, last first.
enum class file_dtype : std::uint8_t { boolean, u8, i8, f8_e5m2, f8_e4m3, i16, u16, f16, bf16, i32, u32, f32, f64, i64, u64 };
struct file_dtype_fact {
  const char* name;
  std::uint64_t bytes;
};
inline constexpr std::array<file_dtype_fact, 15> file_dtypes{{{"BOOL", 1},
                                                              {"U8", 1},
                                                              {"I8", 1},
                                                              {"F8_E5M2", 1},
                                                              {"F8_E4M3", 1},
                                                              {"I16", 2},
                                                              {"U16", 2},
                                                              {"F16", 2},
                                                              {"BF16", 2},
                                                              {"I32", 4},
                                                              {"U32", 4},
                                                              {"F32", 4},
                                                              {"F64", 8},
                                                              {"I64", 8},
                                                              {"U64", 8}}};
constexpr const char* name_of(file_dtype type) { return file_dtypes[std::size_t(type)].name; }
constexpr std::uint64_t bytes_of(file_dtype type) { return file_dtypes[std::size_t(type)].bytes; }

/// One tensor of a file; `name` and `shape` belong to the header.
struct stored_tensor {
  std::string_view name;
  file_dtype type;
  std::span<const std::uint64_t> shape;
  std::uint64_t begin, end;  // bytes of the file
};

inline std::string text_of_shape(std::span<const std::uint64_t> shape) {  // "[4, 8]"
  std::string out = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) out += (i ? ", " : "") + std::to_string(shape[i]);
  return out + "]";
}

/// Of a tensor; nothing where they cannot be counted in 64 bits.
inline std::optional<std::uint64_t> bytes_of(std::span<const std::uint64_t> shape, file_dtype type) {
  std::optional<std::uint64_t> product = 1;
  for (const std::uint64_t extent : shape) product = product ? checked_mul(*product, extent) : product;
  return product ? checked_mul(*product, bytes_of(type)) : product;
}

struct safetensors_limits {
  static constexpr std::uint64_t header = 100'000'000;  // bytes, the format's own
  static constexpr std::size_t tensors = 1'000'000, extents = 8, metadata = 100'000;
};

/// What a file holds. Takes about as much memory as the header had bytes.
class safetensors_header {
 public:
  std::size_t size() const { return entries_.size(); }
  /// By name, 0 <= i < size().
  stored_tensor operator[](std::size_t i) const {
    const entry& e = entries_.at(i);
    return {names_[e.name], e.type, std::span(extents_).subspan(e.first_extent, e.extents), e.begin, e.end};
  }
  std::optional<stored_tensor> find(std::string_view name) const {
    const auto at =
        std::lower_bound(entries_.begin(), entries_.end(), name, [&](const entry& e, std::string_view n) { return names_[e.name] < n; });
    if (at == entries_.end() || names_[at->name] != name) return std::nullopt;
    return (*this)[std::size_t(at - entries_.begin())];
  }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

  /// `json`: the N bytes from byte 8 of a file of `file_size` bytes. Throws format_error that names file, byte, and where it is one, the tensor.
  static safetensors_header parse(std::string_view json, const std::string& file, std::uint64_t file_size);

 private:
  friend class safetensors_events;
  struct entry {
    std::uint64_t begin = 0, end = 0;
    std::uint32_t name = 0, first_extent = 0;
    std::uint8_t extents = 0;
    file_dtype type{};
  };
  std::vector<entry> entries_;
  std::vector<std::uint64_t> extents_;
  text_list names_;
  std::map<std::string, std::string> metadata_;
};

/// Fills a header from the parts of its JSON, checking each.
class safetensors_events final : public json_events {
 public:
  safetensors_events(safetensors_header& to, const std::string& file, std::uint64_t data, std::uint64_t file_size)
      : to_(to), file_(file), data_(data), file_size_(file_size) {}

  void begin(json_kind kind, std::uint64_t where) override {
    ++depth_;
    if (depth_ == 3 && kind == json_kind::array && (field_ == "shape" || field_ == "data_offsets")) return numbers_.clear();
    need(depth_ <= 2 && kind == json_kind::object, where, "found ", name_of(kind));
    if (depth_ != 2 || in_metadata_) return;
    need(to_.entries_.size() < safetensors_limits::tensors, where, "the file has more than ", safetensors_limits::tensors, " tensors");
    has_dtype_ = has_shape_ = has_offsets_ = false;
  }
  void end(std::uint64_t where) override {
    --depth_;
    if (depth_ == 2 && field_ == "shape") {
      now_.first_extent = std::uint32_t(to_.extents_.size());
      now_.extents = std::uint8_t(numbers_.size());
      to_.extents_.insert(to_.extents_.end(), numbers_.begin(), numbers_.end());
      has_shape_ = true;
    } else if (depth_ == 2) {
      need(numbers_.size() == 2, where, "found ", numbers_.size(), " data_offsets, needs 2");
      now_.begin = numbers_[0], now_.end = numbers_[1];
      has_offsets_ = true;
    } else if (depth_ == 1 && !std::exchange(in_metadata_, false)) {
      tensor(where);
    }
  }
  void key(std::string& text, std::uint64_t where) override {
    if (depth_ == 1) {
      in_metadata_ = text == "__metadata__";
      name_ = std::move(text);
    } else {
      field_ = std::move(text);
      need(in_metadata_ || field_ == "dtype" || field_ == "shape" || field_ == "data_offsets", where, "found '", shown_text(field_),
           "', known are dtype, shape and data_offsets");
    }
  }
  void text(std::string& text, std::uint64_t where) override {
    if (depth_ == 2 && in_metadata_) {
      need(to_.metadata_.size() < safetensors_limits::metadata, where, "more than ", safetensors_limits::metadata, " entries");
      to_.metadata_.emplace(std::move(field_), std::move(text));
      return;
    }
    need(depth_ == 2 && field_ == "dtype", where, "found a text");
    const auto at = std::find_if(file_dtypes.begin(), file_dtypes.end(), [&](const file_dtype_fact& f) { return f.name == text; });
    need(at != file_dtypes.end(), where, "found the dtype '", shown_text(text),
         "', known are BOOL, U8 .. U64, I8 .. I64, F8_E5M2, F8_E4M3, ", "F16, BF16, F32 and F64");
    now_.type = file_dtype(at - file_dtypes.begin());
    has_dtype_ = true;
  }
  void integer(json_integer value, std::uint64_t where) override {
    need(depth_ == 3, where, "found an integer");
    need(!value.negative, where, "found a negative number in ", field_);
    need(numbers_.size() < (field_ == "shape" ? safetensors_limits::extents : 2), where, "too many numbers in ", field_);
    numbers_.push_back(value.bits);
  }
  void real(double, std::uint64_t where) override { need(false, where, "found a number that is no integer"); }
  void boolean(bool, std::uint64_t where) override { need(false, where, "found a boolean"); }
  void null(std::uint64_t where) override { need(false, where, "found null"); }

 private:
  template <class... Parts>
  void need(bool holds, std::uint64_t where, const Parts&... parts) const {
    if (holds) return;
    if (depth_ == 0 || name_.empty())
      require_file(false, file_, where, parts..., "; a safetensors header is an object of tensors");
    else
      require_file(false, file_, where, in_metadata_ ? "" : "tensor ", "'", shown_text(name_), "': ", parts...);
  }
  void tensor(std::uint64_t where) {
    need(has_dtype_ && has_shape_ && has_offsets_, where, "has no ", !has_dtype_ ? "dtype" : !has_shape_ ? "shape" : "data_offsets");
    const std::span<const std::uint64_t> shape = std::span(to_.extents_).subspan(now_.first_extent, now_.extents);
    const std::optional<std::uint64_t> bytes = bytes_of(shape, now_.type);
    need(bytes.has_value(), where, "the product of its shape ", text_of_shape(shape), " does not fit in 64 bits");
    need(now_.begin <= now_.end, where, "its data_offsets [", now_.begin, ", ", now_.end, "] run backwards");
    need(now_.end <= file_size_ - data_, where, "its data_offsets [", now_.begin, ", ", now_.end, "] leave the file, which has ",
         file_size_ - data_, " bytes of data; it is cut short or damaged");
    need(now_.end - now_.begin == *bytes, where, "its data_offsets [", now_.begin, ", ", now_.end, "] are ", now_.end - now_.begin,
         " bytes, its shape ", text_of_shape(shape), " of ", name_of(now_.type), " needs ", *bytes);
    now_.name = std::uint32_t(to_.names_.size());
    to_.names_.add(name_);
    now_.begin += data_, now_.end += data_;
    to_.entries_.push_back(now_);
  }

  safetensors_header& to_;
  const std::string& file_;
  std::uint64_t data_, file_size_;  // where the data begin; data_ <= file_size_
  std::size_t depth_ = 0;
  bool in_metadata_ = false, has_dtype_ = false, has_shape_ = false, has_offsets_ = false;
  std::string name_, field_;
  std::vector<std::uint64_t> numbers_;
  safetensors_header::entry now_;
};

inline safetensors_header safetensors_header::parse(std::string_view json, const std::string& file, std::uint64_t file_size) {
  require_file(json.starts_with('{'), file, 8, "the header begins with '", shown_text(json.substr(0, 1)),
               "', a safetensors header with '{'");
  const std::uint64_t data = 8 + json.size();
  require_file(data <= file_size, file, file_size, "the file ends in its header");
  safetensors_header header;
  // As many as a header of this length can have, so that growing never holds two copies; memory that stays untouched is none.
  header.entries_.reserve(std::min(json.size() / 48 + 1, safetensors_limits::tensors));
  header.extents_.reserve(std::min(json.size() / 2, safetensors_limits::tensors * safetensors_limits::extents));
  safetensors_events events(header, file, data, file_size);
  parse_json(json, file, 8, events, {.depth = 3, .keys = 4 * safetensors_limits::tensors + safetensors_limits::metadata + 1});

  std::vector<entry>& all = header.entries_;
  std::sort(all.begin(), all.end(), [](const entry& a, const entry& b) { return std::tie(a.begin, a.end) < std::tie(b.begin, b.end); });
  std::uint64_t end = data;
  for (const entry& e : all) {
    require_file(e.begin == end, file, e.begin, "tensor '", shown_text(header.names_[e.name]), "' begins here, ",
                 e.begin < end ? "inside the one before it, which ends at " : "and leaves a hole: the one before it ends at ", end);
    end = e.end;
  }
  require_file(end == file_size, file, end, "the last tensor ends here, the file at ", file_size, "; it holds what no tensor owns");
  std::sort(all.begin(), all.end(), [&](const entry& a, const entry& b) { return header.names_[a.name] < header.names_[b.name]; });
  return header;
}

/// Reads and checks the header of a file. Throws format_error, and what reading throws.
inline safetensors_header read_safetensors_header(storage_file& file) {
  const std::uint64_t size = file.size();
  require_file(size >= 8, file.path(), 0, "it has ", size, " bytes, a safetensors file at least 8");
  std::array<std::byte, 8> begin;
  file.read(0, begin);
  const std::uint64_t length = load<std::uint64_t>(std::span<const std::byte>(begin), 0);
  require_file(length <= safetensors_limits::header, file.path(), 0, "its header has ", length, " bytes, at most ",
               safetensors_limits::header, " are allowed; this is no safetensors file, or a damaged one");
  require_file(length <= size - 8, file.path(), 8, "its header has ", length, " bytes, the file only ", size - 8,
               " more; it is cut short or damaged");
  std::vector<std::byte> json(std::size_t(length), std::byte{0});
  file.read(8, json);
  return safetensors_header::parse(text_of(json), file.path(), size);
}

/// A tensor that a file will hold.
struct tensor_to_store {
  std::string name;
  file_dtype type = file_dtype::f32;
  std::vector<std::uint64_t> shape;

  /// Throws config_error where they cannot be counted.
  std::uint64_t bytes() const {
    const std::optional<std::uint64_t> product = bytes_of(shape, type);
    require<config_error>(product.has_value(), "moefold: the tensor '", name, "' ", text_of_shape(shape),
                          " has more bytes than can be counted");
    return *product;
  }
};

/// How a file of these tensors looks; the same for the same tensors in any order.
struct safetensors_layout {
  std::string header;                // the first bytes of the file, length included
  std::vector<std::uint64_t> begin;  // byte of the file at which tensor i of those given begins
  std::uint64_t file_size = 0;
};

/// Lays tensors out as the Python package does: by type (the widest first), then by name. Throws config_error for a name that stands twice, a tensor of
/// more than 8 extents, and a header that no reader would take.
inline safetensors_layout lay_out(std::span<const tensor_to_store> tensors, const std::map<std::string, std::string>& metadata) {
  std::vector<std::size_t> order(tensors.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return std::tie(tensors[b].type, tensors[a].name) < std::tie(tensors[a].type, tensors[b].name);
  });
  std::vector<std::string_view> names{"__metadata__"};
  for (const tensor_to_store& t : tensors) names.push_back(t.name);
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  require<config_error>(twice == names.end(), "moefold: two tensors of a file are called '", twice == names.end() ? "" : *twice,
                        "'; give each its own name");
  json_writer json;
  json.begin('{');
  if (!metadata.empty()) {
    json.key("__metadata__").begin('{');
    for (const auto& [key, text] : metadata) json.key(key).value(text);
    json.end();
  }
  safetensors_layout layout{.header = {}, .begin = std::vector<std::uint64_t>(tensors.size()), .file_size = 0};
  std::uint64_t end = 0;
  for (const std::size_t i : order) {
    const tensor_to_store& t = tensors[i];
    require<config_error>(t.shape.size() <= safetensors_limits::extents, "moefold: the tensor '", t.name, "' ", text_of_shape(t.shape),
                          " has more than ", safetensors_limits::extents, " extents");
    const std::optional<std::uint64_t> after = checked_add(end, t.bytes());
    require<config_error>(after && *after < std::uint64_t(std::numeric_limits<std::int64_t>::max()),
                          "moefold: a file cannot hold so many bytes; split it");
    json.key(t.name).begin('{').key("dtype").value(name_of(t.type)).key("shape").begin('[');
    for (const std::uint64_t extent : t.shape) json.value(extent);
    json.end().key("data_offsets").begin('[').value(end).value(*after).end().end();
    layout.begin[i] = end;
    end = *after;
  }
  std::string text = json.end().text();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const std::uint64_t length = text.size(), data = 8 + length;
  require<config_error>(length <= safetensors_limits::header, "moefold: ", tensors.size(), " tensors need a header of ", length,
                        " bytes, a file has at most ", safetensors_limits::header, "; use more files");
  std::array<std::byte, 8> prefix;
  store(std::span(prefix), 0, length);
  layout.header = std::string(text_of(prefix)) + text;
  for (std::uint64_t& begin : layout.begin) begin += data;
  layout.file_size = data + end;
  return layout;
}

}  // namespace moefold
