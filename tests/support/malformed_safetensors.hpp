#pragma once
// Safetensors files that a reader must refuse, each for one reason, and some that it must take: for the test of the reader, and to begin fuzzing with.
#include <cstdint>
#include <string>
#include <vector>

namespace moefold {

/// A file with this header and so many bytes of data; `length` replaces the true length of the header.
inline std::string safetensors_bytes(const std::string& json, std::size_t data, std::uint64_t length) {
  std::string file;
  for (int i = 0; i < 8; ++i) file += char(length >> (8 * i) & 0xff);
  file += json;
  for (std::size_t i = 0; i < data; ++i) file += char(i * 37 + 11);
  return file;
}
inline std::string safetensors_bytes(const std::string& json, std::size_t data) { return safetensors_bytes(json, data, json.size()); }

struct malformed_file {
  const char* because;  // the reason, as a sentence that ends "a file ..."
  std::string bytes;
  const char* words;  // of the error
};

inline std::vector<malformed_file> malformed_safetensors() {
  const auto one = [](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return "{\"w\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape + ",\"data_offsets\":" + offsets + "}}";
  };
  const std::string good = one("F32", "[2]", "[0,8]"), w = good.substr(1, good.size() - 2);
  const auto nested = [](std::size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  std::string many = "{";  // names the same tensor over and over: as many entries as fit, and no more keys than one
  for (int i = 0; i < 1000; ++i) many += "\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},";
  many.back() = '}';
  std::vector<malformed_file> all;
  const auto add = [&](const char* because, std::string bytes, const char* words) { all.push_back({because, std::move(bytes), words}); };
  add("is empty", "", "it has 0 bytes, a safetensors file at least 8");
  add("has half a length", std::string("\x08\0\0", 3), "at least 8");
  add("has no header", safetensors_bytes("", 0), "begins with ''");
  add("has a length near 2^64", safetensors_bytes(good, 8, ~std::uint64_t{0}), "at most 100000000 are allowed");
  add("has a length that wraps round with 8", safetensors_bytes(good, 8, ~std::uint64_t{0} - 7), "at most 100000000 are allowed");
  add("has a header above 100 MB", safetensors_bytes(good, 8, 100'000'001), "at most 100000000 are allowed");
  add("ends in its header", safetensors_bytes(good, 0, good.size() + 1), "it is cut short or damaged");
  add("ends in its data", safetensors_bytes(good, 7), "leave the file, which has 7 bytes of data");
  add("has bytes behind its data", safetensors_bytes(good, 9), "it holds what no tensor owns");
  add("has no tensor and a byte of data", safetensors_bytes("{}", 1), "it holds what no tensor owns");
  add("begins with a space", safetensors_bytes(" " + good, 8), "begins with ' '");
  add("begins with a byte order mark", safetensors_bytes("\xef\xbb\xbf" + good, 8), "begins with '?'");
  add("has an array as header", safetensors_bytes("[" + good + "]", 8), "begins with '['");
  add("has a second header", safetensors_bytes(good + "{}", 8), "no valid JSON");
  add("has a header cut short", safetensors_bytes(good.substr(0, good.size() - 1), 8), "no valid JSON");
  add("hides bytes behind a zero", safetensors_bytes(good + std::string("\0  ", 3), 8), "a zero byte");
  add("has a name that is no UTF-8", safetensors_bytes("{\"\xff" + w.substr(2) + "}", 8), "no valid JSON");
  add("has a name of half a surrogate pair", safetensors_bytes("{\"\\ud800" + w.substr(2) + "}", 8), "no valid JSON");
  add("has a tensor twice", safetensors_bytes("{" + w + "," + w + "}", 8), "a key stands twice");
  add("has a tensor twice, once escaped", safetensors_bytes("{" + w + ",\"\\u0077" + w.substr(2) + "}", 8), "a key stands twice");
  add("has a tensor a thousand times", safetensors_bytes(many, 0), "a key stands twice");
  add("has a field twice", safetensors_bytes("{\"w\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8),
      "a key stands twice");
  add("has metadata twice", safetensors_bytes("{\"__metadata__\":{},\"__metadata__\":{}," + w + "}", 8), "a key stands twice");
  add("has metadata that are no texts", safetensors_bytes("{\"__metadata__\":{\"step\":1}," + w + "}", 8),
      "'__metadata__': found an integer");
  add("has metadata that are a text", safetensors_bytes("{\"__metadata__\":\"pt\"," + w + "}", 8), "'__metadata__': found a text");
  add("has metadata in metadata", safetensors_bytes("{\"__metadata__\":{\"a\":{}}," + w + "}", 8), "'__metadata__': found an object");
  add("nests deep", safetensors_bytes("{\"w\":" + nested(100'000) + "}", 0), "found an array");
  add("nests deep in a shape", safetensors_bytes(one("F32", nested(100'000), "[0,8]"), 8), "nests deeper than 3");
  add("has a tensor that is a number", safetensors_bytes("{\"w\":3}", 0), "tensor 'w': found an integer");
  add("has a tensor without dtype", safetensors_bytes("{\"w\":{\"shape\":[2],\"data_offsets\":[0,8]}}", 8), "has no dtype");
  add("has a tensor without shape", safetensors_bytes("{\"w\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}}", 8), "has no shape");
  add("has a tensor without offsets", safetensors_bytes("{\"w\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8), "has no data_offsets");
  add("has a tensor with a field nobody knows",
      safetensors_bytes("{\"w\":{\"dtype\":\"F32\",\"shape\":[2],\"strides\":[1],\"data_offsets\":[0,8]}}", 8), "found 'strides'");
  add("has a dtype nobody knows", safetensors_bytes(one("F128", "[2]", "[0,8]"), 8), "tensor 'w': found the dtype 'F128'");
  add("has a dtype in small letters", safetensors_bytes(one("f32", "[2]", "[0,8]"), 8), "found the dtype 'f32'");
  add("has offsets that run backwards", safetensors_bytes(one("F32", "[2]", "[8,0]"), 8), "run backwards");
  add("has one offset", safetensors_bytes(one("F32", "[2]", "[8]"), 8), "found 1 data_offsets, needs 2");
  add("has three offsets", safetensors_bytes(one("F32", "[2]", "[0,8,8]"), 8), "too many numbers in data_offsets");
  add("has an offset below 0", safetensors_bytes(one("F32", "[2]", "[-8,0]"), 8), "found a negative number in data_offsets");
  add("has an offset that is a fraction", safetensors_bytes(one("F32", "[2]", "[0.0,8.0]"), 8), "found a number that is no integer");
  add("has an offset above 2^64", safetensors_bytes(one("F32", "[2]", "[0,18446744073709551624]"), 8), "does not fit in 64 bits");
  add("has an offset near 2^64", safetensors_bytes(one("F32", "[2]", "[18446744073709551608,18446744073709551615]"), 8), "leave the file");
  add("has an extent below 0", safetensors_bytes(one("F32", "[-2]", "[0,8]"), 8), "found a negative number in shape");
  add("has an extent that is a text", safetensors_bytes(one("F32", "[\"2\"]", "[0,8]"), 8), "found a text");
  add("has a shape of too many extents", safetensors_bytes(one("F32", "[2,1,1,1,1,1,1,1,1]", "[0,8]"), 8), "too many numbers in shape");
  add("has fewer bytes than its shape", safetensors_bytes(one("F32", "[3]", "[0,8]"), 8), "are 8 bytes, its shape [3] of F32 needs 12");
  add("has more bytes than its shape", safetensors_bytes(one("BF16", "[3]", "[0,8]"), 8), "are 8 bytes, its shape [3] of BF16 needs 6");
  add("has a shape whose product wraps round to 4", safetensors_bytes(one("U8", "[4194305,4194305,211106198978564]", "[0,4]"), 4),
      "the product of its shape [4194305, 4194305, 211106198978564] does not fit in 64 bits");
  add("has a shape whose bytes wrap round to 0", safetensors_bytes(one("F64", "[2305843009213693952]", "[0,0]"), 0),
      "does not fit in 64 bits");
  add("has a shape whose product overflows before a 0", safetensors_bytes(one("F32", "[4294967296,4294967296,0]", "[0,0]"), 0),
      "does not fit in 64 bits");
  add("has tensors that overlap", safetensors_bytes("{" + w + ",\"v\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}}", 12),
      "inside the one before it");
  add("has two tensors in one place", safetensors_bytes("{" + w + ",\"v" + w.substr(2) + "}", 8), "inside the one before it");
  add("has an empty tensor inside another",
      safetensors_bytes("{" + w + ",\"v\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[4,4]}}", 8), "inside the one before it");
  add("has a hole between tensors", safetensors_bytes("{" + w + ",\"v\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[12,16]}}", 16),
      "leaves a hole");
  add("has a hole before the first tensor", safetensors_bytes(one("F32", "[2]", "[4,12]"), 12), "leaves a hole");
  return all;
}

inline std::vector<std::string> wellformed_safetensors() {
  return {
      safetensors_bytes("{}", 0),
      safetensors_bytes("{\"__metadata__\":{\"format\":\"pt\"}}    ", 0),
      safetensors_bytes("{\"w\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8),
      safetensors_bytes("{\"w\":{\"data_offsets\":[0,4],\"shape\":[],\"dtype\":\"F32\"}}", 4),
      safetensors_bytes("{\"b\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[16,19]},\"a\":{\"dtype\":\"BF16\",\"shape\":[2,4],\"data_"
                        "offsets\":[0,16]},"
                        "\"e\":{\"dtype\":\"I64\",\"shape\":[0,7],\"data_offsets\":[16,16]},\"f\":{\"dtype\":\"I64\",\"shape\":[0],\"data_"
                        "offsets\":[16,16]}}",
                        19),
  };
}

}  // namespace moefold
