#include <moefold/checkpoint/safetensors.hpp>

#include <moefold/checkpoint/posix_storage.hpp>

#include <support/malformed_safetensors.hpp>
#include <support/temporary_folder.hpp>

#include <doctest/doctest.h>

#include <ctime>

using namespace moefold;

namespace {

safetensors_header read(const temporary_folder& folder, std::string_view bytes) {
  return read_safetensors_header(*disk().open(folder.put("a.safetensors", bytes)));
}

}  // namespace

TEST_SUITE("checkpoint/safetensors") {
  TEST_CASE("every malformed file is refused with its reason, and the file named") {
    const temporary_folder folder;
    CHECK(malformed_safetensors().size() >= 40);
    for (const malformed_file& bad : malformed_safetensors()) {
      INFO("a file that " << bad.because);
      try {
        read(folder, bad.bytes);
        FAIL_CHECK("was accepted");
      } catch (const format_error& e) {
        INFO(e.what());
        CHECK(std::string(e.what()).find(bad.words) != std::string::npos);
        CHECK(e.file() == folder.file("a.safetensors"));
        CHECK(e.offset() <= bad.bytes.size());
        CHECK(std::string(e.what()).size() < 500 + e.file().size());
      }
    }
  }
  TEST_CASE("well-formed files are read: any order, scalars, empty tensors that share a place, spaces behind the header") {
    const temporary_folder folder;
    for (const std::string& good : wellformed_safetensors()) CHECK_NOTHROW(read(folder, good));
    const safetensors_header header = read(folder, wellformed_safetensors().back());
    REQUIRE(header.size() == 4);
    CHECK(header[0].name == "a");
    CHECK(header[0].type == file_dtype::bf16);
    CHECK(text_of_shape(header[0].shape) == "[2, 4]");
    const std::uint64_t data = wellformed_safetensors().back().size() - 19;
    CHECK(header[0].begin == data);
    CHECK(header[0].end == data + 16);
    CHECK(header.find("b")->begin == data + 16);
    CHECK(header.find("e")->begin == header.find("e")->end);
    CHECK(!header.find("c"));
    CHECK(!header.find(""));
    CHECK(read(folder, wellformed_safetensors()[1]).metadata().at("format") == "pt");
    CHECK(read(folder, wellformed_safetensors()[3]).find("w")->shape.empty());
  }
  TEST_CASE("a file cut at any byte is refused") {
    const temporary_folder folder;
    for (const std::string& good : wellformed_safetensors())
      for (std::size_t cut = 0; cut < good.size(); ++cut)
        CHECK_THROWS_AS(read(folder, std::string_view(good).substr(0, cut)), format_error);
  }
  TEST_CASE("any flipped bit of a header gives an error or a header whose tensors still lie in the file") {
    const temporary_folder folder;
    const std::string good = wellformed_safetensors().back();
    for (std::size_t bit = 0; bit < (good.size() - 19) * 8; ++bit) {
      std::string bad = good;
      bad[bit / 8] = char(bad[bit / 8] ^ (1 << bit % 8));
      try {
        const safetensors_header header = read(folder, bad);
        for (std::size_t i = 0; i < header.size(); ++i) CHECK((header[i].begin <= header[i].end && header[i].end <= bad.size()));
      } catch (const format_error&) {
      }
    }
  }
  TEST_CASE("what is laid out is read back as it was, in the order of the Python package") {
    const std::vector<tensor_to_store> tensors{{"b", file_dtype::bf16, {2, 3}},
                                               {"z", file_dtype::f32, {}},
                                               {"a", file_dtype::f32, {5}},
                                               {"u", file_dtype::u8, {3}},
                                               {"q\"\n", file_dtype::i64, {0, 4}}};
    const safetensors_layout layout = lay_out(tensors, {{"format", "pt"}});
    CHECK(
        layout.header.substr(8) ==
        R"({"__metadata__":{"format":"pt"},"q\"\n":{"dtype":"I64","shape":[0,4],"data_offsets":[0,0]},"a":{"dtype":"F32","shape":[5],"data_offsets":[0,20]},)"
        R"("z":{"dtype":"F32","shape":[],"data_offsets":[20,24]},"b":{"dtype":"BF16","shape":[2,3],"data_offsets":[24,36]},)"
        R"("u":{"dtype":"U8","shape":[3],"data_offsets":[36,39]}} )");
    CHECK(layout.header.size() % 8 == 0);
    CHECK(layout.file_size == layout.header.size() + 39);
    const temporary_folder folder;
    const safetensors_header header = read(folder, layout.header + std::string(39, 'x'));
    REQUIRE(header.size() == tensors.size());
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      const std::optional<stored_tensor> found = header.find(tensors[i].name);
      REQUIRE(found);
      CHECK(found->begin == layout.begin[i]);
      CHECK(found->end - found->begin == tensors[i].bytes());
      CHECK(found->type == tensors[i].type);
      CHECK(text_of_shape(found->shape) == text_of_shape(tensors[i].shape));
    }
    CHECK(header.metadata() == std::map<std::string, std::string>{{"format", "pt"}});
    const std::vector<tensor_to_store> wide{
        {"w", file_dtype::f64, {std::uint64_t{1} << 33, std::uint64_t{1} << 30, 0}}};  // empty, if not for the wrong order
    CHECK(read(folder, lay_out(wide, {}).header).size() == 1);
    CHECK(lay_out({}, {}).header == std::string("\x08\0\0\0\0\0\0\0{}      ", 16));
  }
  TEST_CASE("what no reader would take is not laid out") {
    const auto refused = [](std::vector<tensor_to_store> tensors, const char* words) {
      CHECK_THROWS_WITH_AS(lay_out(tensors, {}), doctest::Contains(words), config_error);
    };
    refused({{"a", file_dtype::f32, {1}}, {"b", file_dtype::f32, {1}}, {"a", file_dtype::u8, {1}}}, "two tensors of a file are called 'a'");
    refused({{"__metadata__", file_dtype::f32, {1}}}, "called '__metadata__'");
    refused({{"a", file_dtype::f32, {1, 1, 1, 1, 1, 1, 1, 1, 1}}}, "more than 8 extents");
    refused({{"a", file_dtype::f32, {std::uint64_t{1} << 62}}}, "more bytes than can be counted");
    refused({{"a", file_dtype::u8, {std::uint64_t{1} << 63}}}, "a file cannot hold so many bytes");
  }
  TEST_CASE("a header of 260,000 tensors, with more keys than other JSON may have, takes well under two seconds") {
    std::vector<tensor_to_store> tensors;
    for (int i = 0; i < 260'000; ++i) tensors.push_back({sentence("layers.", i % 317, ".w", i), file_dtype::bf16, {1, 2}});
    const safetensors_layout layout = lay_out(tensors, {});
    const std::clock_t begin = std::clock();
    const safetensors_header header = safetensors_header::parse(std::string_view(layout.header).substr(8), "a", layout.file_size);
    CHECK(header.size() == 260'000);
    CHECK(std::clock() - begin < 2 * CLOCKS_PER_SEC);
  }
}
