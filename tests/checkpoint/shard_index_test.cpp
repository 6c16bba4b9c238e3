#include <moefold/checkpoint/shard_index.hpp>

#include <doctest/doctest.h>

using namespace moefold;

namespace {

std::string map(const std::string& file) { return "{\"weight_map\":{\"w\":\"" + file + "\"}}"; }
void refused(std::string_view json, const char* words) {
  CHECK_THROWS_WITH_AS(shard_index::parse(json, "index.json"), doctest::Contains(words), format_error);
}

}  // namespace

TEST_SUITE("checkpoint/shard_index") {
  TEST_CASE("an index says for each tensor which file, and passes over what it says besides") {
    const auto index = shard_index::parse(R"({"metadata": {"total_size": 12, "more": [{"weight_map": 3}, null, true, 0.5]}, "other": "x",
      "weight_map": {"c": "model-2.safetensors", "a": "model-1.safetensors", "b": "model-2.safetensors"}})",
                                          "index.json");
    REQUIRE(index.size() == 3);
    CHECK(index.files() == std::vector<std::string>{"model-2.safetensors", "model-1.safetensors"});
    CHECK(index.name(0) == "a");
    CHECK(index.files()[index.file_of(0)] == "model-1.safetensors");
    CHECK(index.file_of(1) == index.file_of(2));
    CHECK(index.lower_bound("b") == 1);
    CHECK(index.lower_bound("bb") == 2);
    CHECK(index.lower_bound("d") == 3);
    CHECK(shard_index::parse(R"({"weight_map": {}})", "index.json").size() == 0);
  }
  TEST_CASE("names that could leave the folder, or mean another kind of file, are refused") {
    for (const char* name : {"../a.safetensors", "..\\\\a.safetensors", "/etc/a.safetensors", "b/a.safetensors", "c:a.safetensors", ".",
                             "..", "", ".safetensors", "..safetensors", ".hidden.safetensors", "a.safetensors\\u0000",
                             "a\\u0000.safetensors", "a\\n.safetensors", "a.bin", "a.safetensors/", "\\u00e9.safetensors"})
      refused(map(name), "tensor 'w' lies in '");
    refused(map(std::string(245, 'a') + ".safetensors"), "without a path");
    CHECK_NOTHROW(shard_index::parse(map(std::string(243, 'a') + ".safetensors"), "index.json"));
    CHECK_NOTHROW(shard_index::parse(map("model-00001-of-00002.safetensors"), "index.json"));
  }
  TEST_CASE("what is no index is refused") {
    refused("", "no valid JSON");
    refused("3", "an index is an object");
    refused("\"weight_map\"", "an index is an object");
    refused("null", "an index is an object");
    refused("[]", "an index is an object");
    refused("{}", "it has no weight_map");
    refused(R"({"metadata": {"weight_map": {}}})", "it has no weight_map");
    refused(R"({"weight_map": []})", "weight_map is an array, needs an object");
    refused(R"({"weight_map": "a.safetensors"})", "weight_map needs to be an object");
    refused(R"({"weight_map": 3})", "weight_map needs to be an object");
    refused(R"({"weight_map": {"w": 3}})", "tensor 'w' has no file name as a text");
    refused(R"({"weight_map": {"w": null}})", "tensor 'w' has no file name as a text");
    refused(R"({"weight_map": {"w": {"x": "a.safetensors"}}})", "tensor 'w' has no file name as a text");
    refused(R"({"weight_map": {"w": ["a.safetensors"]}})", "tensor 'w' has no file name as a text");
    refused(R"({"weight_map": {"w": "a.safetensors", "w": "b.safetensors"}})", "a key stands twice");
    refused(R"({"weight_map": {}, "weight_map": {}})", "a key stands twice");
  }
  TEST_CASE("an index of too many files is refused") {
    std::string json = "{\"weight_map\":{";
    for (int i = 0; i <= 10'000; ++i) json += sentence(i ? "," : "", "\"w", i, "\":\"", i, ".safetensors\"");
    refused(json + "}}", "more than 10000 files");
  }
}
