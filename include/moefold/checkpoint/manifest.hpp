#pragma once
// The manifest of a save: which ranks wrote which files, where each piece of each tensor lies in them, and a hash of every MiB. Written last, so that a save
// without one does not exist; its own last member is the hash of all bytes before.
//
//   {"format": "moefold checkpoint 1", "id": "9f..", "step": 200, "world": 4, "notes": {"seed": "7"},
//    "files":   [{"name": "rank-0000.safetensors", "bytes": 8192, "header": 640, "hash": "0f.."}, ..],      one per rank
//    "tensors": [{"name": "layers.3.moe.gate/weight", "dtype": "F32", "shape": [8, 144, 128],               by name, without padding
//                 "boxes": [[0,0,0, 2,144,128], ..],                                                        offset, extent
//                 "pieces": [[box, begin, end, file, byte, "hash hash .."], ..]}, ..],                      elements of the box, byte of the file
//    "arrays":  [as tensors: small ones that are the same on all ranks, in the file of rank 0],
//    "hash": "c3.."}
// It is read as a file that nobody vouches for: every number is checked before it is used, and pieces must cover their tensor exactly once.
#include <moefold/checkpoint/convert.hpp>
#include <moefold/checkpoint/reshard.hpp>

#include <algorithm>
#include <cstdio>
#include <map>
#include <string>

namespace moefold {

struct saved_file {
  std::string name;
  std::uint64_t bytes = 0;   // of the whole file
  std::uint64_t header = 0;  // of these: length, names and places
  std::uint64_t hash = 0;    // of the header
  friend bool operator==(const saved_file&, const saved_file&) = default;
};
struct saved_piece {
  tensor_piece piece;                 // without padding
  std::size_t file = 0;               // in checkpoint_manifest::files
  std::uint64_t offset = 0;           // of its first byte in that file
  std::vector<std::uint64_t> hashes;  // of each chunk of it
  friend bool operator==(const saved_piece&, const saved_piece&) = default;
};
struct saved_tensor {
  std::string name;
  dtype type{};
  shape extent;
  std::vector<saved_piece> pieces;
  friend bool operator==(const saved_tensor&, const saved_tensor&) = default;
};
struct checkpoint_manifest {
  std::string id;  // 16 hexadecimal digits, another one for each save
  std::int64_t step = 0;
  std::vector<saved_file> files;
  std::vector<saved_tensor> tensors, arrays;  // by name
  std::map<std::string, std::string> notes;
  friend bool operator==(const checkpoint_manifest&, const checkpoint_manifest&) = default;
};

inline constexpr std::uint64_t checkpoint_chunk = 1 << 20;  // bytes that have one hash

constexpr std::uint64_t chunks_of(std::uint64_t bytes) { return bytes / checkpoint_chunk + (bytes % checkpoint_chunk != 0); }

constexpr std::uint64_t element_bytes(dtype type) { return bytes_of(file_dtype_of(type)); }

/// "rank-0003.safetensors"
inline std::string rank_file_name(std::size_t rank) {
  const std::string digits = std::to_string(rank);
  return "rank-" + std::string(digits.size() < 4 ? 4 - digits.size() : 0, '0') + digits + ".safetensors";
}

inline std::string hash_text(std::uint64_t hash) {
  char digits[17];
  std::snprintf(digits, sizeof digits, "%016llx", static_cast<unsigned long long>(hash));
  return digits;
}

/// Hashes of one part of one save: everything that tells the part from another is in the seed, so that a part in another's place does not pass for it.
class part_hash {
 public:
  part_hash(const std::string& id, std::int64_t step, const std::string& file, const std::string& tensor) {
    const std::string key = sentence(id, '\n', step, '\n', file, '\n', tensor);
    key_ = XXH3_64bits(key.data(), key.size());
  }
  std::uint64_t operator()(std::uint64_t chunk, std::span<const std::byte> bytes) const {
    const std::uint64_t both[2] = {key_, chunk};
    return XXH3_64bits_withSeed(bytes.data(), bytes.size(), XXH3_64bits(both, sizeof both));
  }

 private:
  std::uint64_t key_ = 0;
};

namespace detail {

inline void write_tensors(json_writer& to, const char* key, const std::vector<saved_tensor>& tensors) {
  to.key(key).begin('[');
  for (const saved_tensor& t : tensors) {
    to.begin('{').key("name").value(t.name).key("dtype").value(name_of(file_dtype_of(t.type))).key("shape").begin('[');
    for (int i = 0; i < t.extent.rank; ++i) to.value(t.extent[i]);
    to.end();
    std::vector<const box*> boxes;  // of neighbours: pieces come sorted by box
    std::vector<std::size_t> box_of_piece;
    for (const saved_piece& p : t.pieces) {
      if (boxes.empty() || !(*boxes.back() == p.piece.where)) boxes.push_back(&p.piece.where);
      box_of_piece.push_back(boxes.size() - 1);
    }
    to.key("boxes").begin('[');
    for (const box* b : boxes) {
      to.begin('[');
      for (int i = 0; i < t.extent.rank; ++i) to.value(b->offset[std::size_t(i)]);
      for (int i = 0; i < t.extent.rank; ++i) to.value(b->extent[i]);
      to.end();
    }
    to.end().key("pieces").begin('[');
    for (std::size_t i = 0; i < t.pieces.size(); ++i) {
      const saved_piece& p = t.pieces[i];
      std::string hashes;
      for (const std::uint64_t h : p.hashes) hashes += hash_text(h);
      to.begin('[').value(box_of_piece[i]).value(p.piece.range.begin).value(p.piece.range.end).value(p.file).value(p.offset);
      to.value(hashes).end();
    }
    to.end().end();
  }
  to.end();
}

inline std::uint64_t read_hash(const json_value& from, std::string_view digits) {
  std::uint64_t value = 0;
  bool good = digits.size() == 16;
  for (const char c : digits) {
    const std::size_t digit = std::string_view("0123456789abcdef").find(c);
    good = good && digit != std::string_view::npos;
    value = value << 4 | (digit & 15);
  }
  from.require(good, "'", shown_text(digits), "' is no hash; 16 hexadecimal digits are");
  return value;
}
inline std::uint64_t read_hash(const json_value& from) { return read_hash(from, from.text()); }

inline tensor_piece read_box(const json_value& from, const shape& global) {
  tensor_piece p;
  p.where.global = p.where.extent = global;
  p.real = global.size();
  const auto& numbers = from.array();
  const std::size_t rank = std::size_t(global.rank);
  from.require(numbers.size() == 2 * rank, "a box of a tensor ", global.text(), " has ", 2 * rank, " numbers, found ", numbers.size());
  for (std::size_t i = 0; i < rank; ++i) {
    const auto offset = numbers[i].integer<extent_t>(), extent = numbers[rank + i].integer<extent_t>();
    from.require(offset >= 0 && extent >= 0 && offset <= global[int(i)] && extent <= global[int(i)] - offset, "places ", offset, " and ",
                 extent, " from there do not lie in extent ", i, " of ", global.text());
    p.where.offset[i] = offset;
    p.where.extent[int(i)] = extent;
  }
  return p;
}

inline saved_tensor read_tensor(const json_value& from, const std::vector<saved_file>& files) {
  saved_tensor t;
  t.name = from.at("name").text();
  const json_value& type = from.at("dtype");
  constexpr std::array all{dtype::fp64,  dtype::fp32,  dtype::bf16,     dtype::int64,
                           dtype::int32, dtype::uint8, dtype::fp8_e4m3, dtype::fp8_e5m2};
  const auto known = std::find_if(all.begin(), all.end(), [&](dtype d) { return type.text() == name_of(file_dtype_of(d)); });
  type.require(known != all.end(), "the element type '", shown_text(type.text()), "' is unknown");
  t.type = *known;
  const json_value& extents = from.at("shape");
  extents.require(extents.array().size() <= shape::max_rank, "a tensor has at most ", shape::max_rank, " extents, found ",
                  extents.array().size());
  std::optional<std::uint64_t> bytes = element_bytes(t.type);
  for (const json_value& e : extents.array()) {
    const auto extent = e.integer<extent_t>();
    e.require(extent >= 0, "an extent is at least 0, found ", extent);
    if (extent > 0 && bytes) bytes = checked_mul(*bytes, std::uint64_t(extent));
    t.extent[t.extent.rank++] = extent;
  }
  extents.require(bytes && *bytes <= std::uint64_t(std::numeric_limits<extent_t>::max()), "the tensor '", shown_text(t.name), "' of ",
                  t.extent.text(), " is larger than any file");
  std::vector<tensor_piece> boxes;
  for (const json_value& b : from.at("boxes").array()) boxes.push_back(read_box(b, t.extent));
  const json_value& pieces = from.at("pieces");
  for (const json_value& p : pieces.array()) {
    const auto& parts = p.array();
    p.require(parts.size() == 6, "a piece has 6 parts, found ", parts.size());
    const auto box_index = parts[0].integer<std::size_t>();
    parts[0].require(box_index < boxes.size(), "box ", box_index, " of ", boxes.size(), " does not exist");
    saved_piece s{boxes[box_index], parts[3].integer<std::size_t>(), parts[4].integer<std::uint64_t>(), {}};
    s.piece.range = {parts[1].integer<extent_t>(), parts[2].integer<extent_t>()};
    p.require(s.piece.range.begin >= 0 && s.piece.range.begin < s.piece.range.end && s.piece.range.end <= s.piece.where.size(), "elements ",
              s.piece.range.begin, " to ", s.piece.range.end, " are no part of a box of ", s.piece.where.size());
    parts[3].require(s.file < files.size(), "file ", s.file, " of ", files.size(), " does not exist");
    const std::uint64_t length = std::uint64_t(s.piece.range.size()) * element_bytes(t.type);  // of a box of a tensor that is checked
    const saved_file& file = files[s.file];
    parts[4].require(s.offset >= file.header && s.offset <= file.bytes && length <= file.bytes - s.offset, length, " bytes at byte ",
                     s.offset, " do not lie behind the header of '", file.name, "', which has ", file.bytes, " bytes");
    const std::string& hashes = parts[5].text();
    parts[5].require(hashes.size() == 16 * chunks_of(length), length, " bytes have ", chunks_of(length), " hashes, found ",
                     hashes.size() / 16);
    for (std::size_t i = 0; i < hashes.size(); i += 16) s.hashes.push_back(read_hash(parts[5], std::string_view(hashes).substr(i, 16)));
    t.pieces.push_back(std::move(s));
  }
  return t;
}

inline std::vector<saved_tensor> read_tensors(const json_value& from, const std::vector<saved_file>& files) {
  std::vector<saved_tensor> all;
  for (const json_value& t : from.array()) {
    all.push_back(read_tensor(t, files));
    t.require(all.size() == 1 || all[all.size() - 2].name < all.back().name, "the tensor '", shown_text(all.back().name),
              "' stands behind '", shown_text(all[all.size() - (all.size() > 1 ? 2 : 1)].name), "'; names go up, each once");
  }
  return all;
}

inline constexpr const char* manifest_format = "moefold checkpoint 1";

}  // namespace detail

/// What a tensor's pieces hold, checked: throws format_error at byte `offset` of `file` where not every element is held exactly once.
inline void require_cover(const saved_tensor& t, const std::string& file, std::uint64_t offset) {
  std::vector<tensor_piece> pieces;
  pieces.reserve(t.pieces.size());
  for (const saved_piece& p : t.pieces) pieces.push_back(p.piece);
  const std::string fault = cover_fault(pieces, t.extent);
  require_file(fault.empty(), file, offset, "the tensor '", shown_text(t.name), "' of ", t.extent.text(), ": ", fault);
}

/// The text that goes into the file, or, of one rank's part, to rank 0.
inline std::string manifest_text(const checkpoint_manifest& m) {
  json_writer to;
  to.begin('{').key("format").value(detail::manifest_format).key("id").value(m.id).key("step").value(m.step);
  to.key("world").value(m.files.size()).key("notes").begin('{');
  for (const auto& [name, text] : m.notes) to.key(name).value(text);
  to.end().key("files").begin('[');
  for (const saved_file& f : m.files) {
    to.begin('{').key("name").value(f.name).key("bytes").value(f.bytes).key("header").value(f.header);
    to.key("hash").value(hash_text(f.hash)).end();
  }
  to.end();
  detail::write_tensors(to, "tensors", m.tensors);
  detail::write_tensors(to, "arrays", m.arrays);
  std::string text = to.text() + ",\n\"hash\":\"";
  return text + hash_text(XXH3_64bits(text.data(), text.size())) + "\"}\n";
}

/// One rank's part on its way to rank 0, or the whole.
enum class manifest_kind : bool { part, whole };

/// Throws checksum_mismatch where the text is not what was written (cut short included), format_error where it is no manifest. Time n log n.
inline checkpoint_manifest parse_manifest(std::string_view text, const std::string& file, manifest_kind kind = manifest_kind::whole) {
  constexpr std::size_t digits = 16, tail = digits + 3;  // ..."}\n
  const bool whole = text.size() > tail && text.substr(text.size() - 3) == "\"}\n";
  const std::string_view hashed = text.substr(0, text.size() - (whole ? tail : 0));
  const std::string found = hash_text(XXH3_64bits(hashed.data(), hashed.size()));
  require_file<checksum_mismatch>(whole && hashed.ends_with(",\n\"hash\":\"") && text.substr(hashed.size(), digits) == found, file,
                                  whole ? hashed.size() : text.size(), "its last member is no hash of what stands before (that has ", found,
                                  "); the file is damaged or cut short, take an older save");
  const json_value root = read_json(text, file);
  const json_value& format = root.at("format");
  format.require(format.text() == detail::manifest_format, "found '", shown_text(format.text()), "', needs '", detail::manifest_format,
                 "'; it was written by another version of moefold, or is no manifest");
  checkpoint_manifest m;
  m.id = root.at("id").text();
  detail::read_hash(root.at("id"));
  m.step = root.at("step").integer<std::int64_t>();
  root.at("step").require(m.step >= 0, "a step is at least 0, found ", m.step);
  for (const auto& note : root.at("notes").members()) m.notes.emplace(note.key(), note.text());
  for (const json_value& f : root.at("files").array()) {
    saved_file s{f.at("name").text(), f.at("bytes").integer<std::uint64_t>(), f.at("header").integer<std::uint64_t>(),
                 detail::read_hash(f.at("hash"))};
    f.require(kind == manifest_kind::part || s.name == rank_file_name(m.files.size()), "the file of rank ", m.files.size(), " is called '",
              rank_file_name(m.files.size()), "', found '", shown_text(s.name), "'");
    f.require(s.header <= s.bytes && s.bytes <= std::uint64_t(std::numeric_limits<extent_t>::max()), "a header of ", s.header,
              " bytes in a file of ", s.bytes);
    m.files.push_back(std::move(s));
  }
  const json_value& world = root.at("world");
  world.require(world.integer<std::uint64_t>() == m.files.size() && !m.files.empty(), "a world of ", world.integer<std::uint64_t>(),
                " ranks has as many files, found ", m.files.size());
  const json_value &tensors = root.at("tensors"), &arrays = root.at("arrays");
  m.tensors = detail::read_tensors(tensors, m.files);
  m.arrays = detail::read_tensors(arrays, m.files);
  std::vector<std::uint64_t> bytes(m.files.size());
  for (const auto* group : {&m.tensors, &m.arrays}) {
    const json_value& from = group == &m.tensors ? tensors : arrays;
    for (const saved_tensor& t : *group) {
      if (kind == manifest_kind::whole) require_cover(t, file, from.offset());
      for (const saved_piece& p : t.pieces) {  // cannot overflow: each at most 2^63, and what exceeds the file ends it
        std::uint64_t& sum = bytes[p.file];
        sum = checked_add(sum, std::uint64_t(p.piece.range.size()) * element_bytes(t.type)).value_or(~std::uint64_t{0});
        from.require(sum <= m.files[p.file].bytes, "the pieces in '", m.files[p.file].name, "' have more bytes than the file, ",
                     m.files[p.file].bytes);
      }
    }
  }
  for (std::size_t i = 0; i < m.files.size(); ++i)
    root.require(bytes[i] == m.files[i].bytes - m.files[i].header, "the pieces in '", m.files[i].name, "' have ", bytes[i],
                 " bytes, behind its header are ", m.files[i].bytes - m.files[i].header);
  return m;
}

}  // namespace moefold
