#include <moefold/checkpoint/manifest.hpp>

#include <doctest/doctest.h>

using namespace moefold;
using doctest::Contains;

namespace {

// Two ranks: a matrix in columns, the left ones in two ranges; a scalar; an array.
checkpoint_manifest sample() {
  checkpoint_manifest m;
  m.id = "0123456789abcdef", m.step = 7;
  m.notes = {{"seed", "1"}, {"text \"\\\n", "\xc3\xa4"}};
  m.files = {{"rank-0000.safetensors", 64 + 40 + 8 + 3, 64, 5}, {"rank-0001.safetensors", 100 + 32 + 24, 100, ~std::uint64_t{0}}};
  const shape g{4, 6};
  const box left{g, {0, 0}, {4, 4}}, right{g, {0, 4}, {4, 2}};
  m.tensors = {
      {"a", dtype::fp32, g, {{{left, {0, 10}, 24}, 0, 64, {1}}, {{left, {10, 16}, 24}, 1, 132, {2}}, {{right, {0, 8}, 24}, 1, 100, {3}}}},
      {"b", dtype::fp64, {}, {{{{}, {0, 1}, 1}, 0, 104, {4}}}}};
  m.arrays = {{"c", dtype::uint8, {3}, {{{{{3}, {}, {3}}, {0, 3}, 3}, 0, 112, {9}}}}, {"empty", dtype::int64, {0}, {}}};
  return m;
}
std::string hashed(std::string text) { return text + hash_text(XXH3_64bits(text.data(), text.size())) + "\"}\n"; }

}  // namespace

TEST_SUITE("checkpoint/manifest") {
  TEST_CASE("a manifest is read as it was written, and takes its last hash from all before") {
    const std::string text = manifest_text(sample());
    CHECK(parse_manifest(text, "m") == sample());
    CHECK(hashed(text.substr(0, text.size() - 19)) == text);
    for (std::size_t i = 0; i < text.size(); ++i) {
      std::string other = text;
      other[i] = char(other[i] ^ 1);
      CHECK_THROWS_AS(parse_manifest(other, "m"), checksum_mismatch);
      CHECK_THROWS_AS(parse_manifest(text.substr(0, i), "m"), checksum_mismatch);
    }
    CHECK_THROWS_AS(parse_manifest(text + "\n", "m"), checksum_mismatch);
  }
  TEST_CASE("whatever is wrong with a number is said, and where") {
    const std::string text = manifest_text(sample());
    const auto refuse = [&](const char* what, const char* with, const char* words) {
      std::string other = text.substr(0, text.size() - 19);
      const std::size_t at = other.find(what);
      REQUIRE_MESSAGE(at != std::string::npos, what);
      other.replace(at, std::string_view(what).size(), with);
      CHECK_THROWS_WITH_AS(parse_manifest(hashed(other), "m"), Contains(words), format_error);
    };
    refuse("moefold checkpoint 1", "moefold checkpoint 2", "needs 'moefold checkpoint 1'");
    refuse("0123456789abcdef", "0123456789abcdeF", "is no hash; 16 hexadecimal digits are");
    refuse("\"step\":7", "\"step\":-7", "a step is at least 0, found -7");
    refuse("\"step\":7", "\"step\":7.5", "needs an integer");
    refuse("\"world\":2", "\"world\":3", "a world of 3 ranks has as many files, found 2");
    refuse("rank-0001.safe", "rank-0000.safe", "the file of rank 1 is called 'rank-0001.safetensors'");
    refuse("rank-0001.safetensors", "../../etc/passwd", "the file of rank 1 is called");
    refuse("\"header\":64", "\"header\":640", "a header of 640 bytes in a file of 115");
    refuse("\"bytes\":115", "\"bytes\":9223372036854775808", "a header of 64 bytes in a file of 9223372036854775808");
    refuse("\"bytes\":115", "\"bytes\":116", "the pieces in 'rank-0000.safetensors' have 51 bytes, behind its header are 52");
    refuse("\"F32\"", "\"F33\"", "the element type 'F33' is unknown");
    refuse("\"F32\"", "\"F16\"", "the element type 'F16' is unknown");
    refuse("\"name\":\"b\"", "\"name\":\"a\"", "the tensor 'a' stands behind 'a'");
    refuse("[4,6]", "[4,6,1,1,1]", "at most 4 extents");
    refuse("[4,6]", "[4,-6]", "an extent is at least 0, found -6");
    refuse("[4,6]", "[4611686018427387904,6]", "is larger than any file");
    refuse("[4,6]", "[0,4611686018427387904,4611686018427387904]", "is larger than any file");
    refuse("[0,0,4,4]", "[0,0,4]", "a box of a tensor [4, 6] has 4 numbers, found 3");
    refuse("[0,0,4,4]", "[0,3,4,4]", "places 3 and 4 from there do not lie in extent 1");
    refuse("[0,0,4,4]", "[0,9223372036854775807,4,4]", "do not lie in extent 1");
    refuse("[0,0,10,0,64,", "[2,0,10,0,64,", "box 2 of 2 does not exist");
    refuse("[0,0,10,0,64,", "[0,0,17,0,64,", "elements 0 to 17 are no part of a box of 16");
    refuse("[0,0,10,0,64,", "[0,10,10,0,64,", "elements 10 to 10 are no part");
    refuse("[0,0,10,0,64,", "[0,0,10,2,64,", "file 2 of 2 does not exist");
    refuse("[0,0,10,0,64,", "[0,0,10,0,63,", "do not lie behind the header of 'rank-0000.safetensors'");
    refuse("[0,0,10,0,64,", "[0,0,10,0,76,", "40 bytes at byte 76 do not lie behind the header");
    refuse("[0,0,10,0,64,", "[0,0,10,0,18446744073709551615,", "do not lie behind the header");
    refuse("[0,0,10,0,64,\"", "[0,0,10,0,64,\"0", "40 bytes have 1 hashes");
    refuse("[0,0,10,0,64,\"0", "[0,0,10,0,64,\"x", "is no hash");
    refuse("[0,10,16,", "[0,11,16,", "the tensor 'a' of [4, 6]: elements 10 to 11 of the box at [0, 0] lie in no piece");
    refuse("[0,10,16,", "[0,9,15,", "lie in two pieces");
    refuse("[0,4,4,2]", "[0,3,4,2]", "the tensor 'a' of [4, 6]: places 3 to 4 of extent 1 lie in two pieces");
    refuse("\"step\"", "\"stop\"", "has no 'step'");
    refuse("\"seed\":\"1\"", "\"seed\":1", "found an integer, needs a text");
    refuse("\"step\":7", "\"step\":7,\"step\":7", "twice");
  }
  TEST_CASE("a hash tells its bytes, chunk, tensor, file, step and save from all others") {
    const std::vector<std::byte> bytes(10), other(10, std::byte{1});
    const auto hash = part_hash("id", 1, "f", "t")(0, bytes);
    CHECK(part_hash("id", 1, "f", "t")(0, bytes) == hash);
    CHECK(part_hash("id", 1, "f", "t")(0, other) != hash);
    CHECK(part_hash("id", 1, "f", "t")(1, bytes) != hash);
    CHECK(part_hash("id", 1, "f", "u")(0, bytes) != hash);
    CHECK(part_hash("id", 1, "g", "t")(0, bytes) != hash);
    CHECK(part_hash("id", 2, "f", "t")(0, bytes) != hash);
    CHECK(part_hash("jd", 1, "f", "t")(0, bytes) != hash);
  }
  TEST_CASE("files are named by rank") {
    CHECK(rank_file_name(3) == "rank-0003.safetensors");
    CHECK(rank_file_name(12345) == "rank-12345.safetensors");
  }
}
