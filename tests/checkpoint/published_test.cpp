#include <moefold/checkpoint/published.hpp>

#include <moefold/checkpoint/posix_storage.hpp>

#include <support/counting_storage.hpp>
#include <support/temporary_folder.hpp>

#include <doctest/doctest.h>

using namespace moefold;

namespace {

/// One safetensors file in memory from tensors of floats, element i of tensor t being value(t, i).
struct float_tensor {
  std::string name;
  std::vector<std::uint64_t> shape;
  std::vector<float> values;
};
std::string file_of(const std::vector<float_tensor>& tensors, file_dtype type = file_dtype::f32) {
  std::vector<tensor_to_store> plan;
  for (const float_tensor& t : tensors) plan.push_back({t.name, type, t.shape});
  const safetensors_layout layout = lay_out(plan, {{"format", "pt"}});
  std::vector<std::byte> all(layout.file_size);
  std::ranges::copy(bytes_of(std::string_view(layout.header)), all.begin());
  for (std::size_t i = 0; i < tensors.size(); ++i)
    convert(std::as_bytes(std::span(tensors[i].values)), file_dtype::f32, std::span(all).subspan(layout.begin[i], plan[i].bytes()), type);
  return std::string(text_of(all));
}
std::vector<float> counted(std::size_t n, float first) {
  std::vector<float> values(n);
  for (std::size_t i = 0; i < n; ++i) values[i] = first + float(i);
  return values;
}

/// Experts [E 4, F 6, H 5] as four published tensors, and the same inside four fused ones [12, 5] behind another half.
constexpr extent_t experts = 4, rows = 6, columns = 5, each = rows * columns;
std::vector<float_tensor> expert_tensors() {
  std::vector<float_tensor> tensors;
  for (int e = 0; e < experts; ++e) {
    tensors.push_back({sentence("e", e), {6, 5}, counted(30, float(e * 30))});
    std::vector<float> fused = counted(30, 1000);
    const std::vector<float> second = counted(30, float(e * 30));
    fused.insert(fused.end(), second.begin(), second.end());
    tensors.push_back({sentence("fused", e), {12, 5}, fused});
  }
  return tensors;
}
std::vector<published_segment> expert_segments(bool fused) {
  std::vector<published_segment> segments;
  for (extent_t e = 0; e < experts; ++e)
    segments.push_back({sentence(fused ? "fused" : "e", e), fused ? each : 0, e * each, each, fused ? shape{12, 5} : shape{6, 5}});
  return segments;
}
tensor_piece whole(const shape& s) { return {{s, {}, s}, {0, s.size()}, s.size()}; }

std::vector<float> read(const published_reader& from, const tensor_piece& piece, std::span<const published_segment> segments) {
  std::vector<float> out(std::size_t(piece.range.size()), -1.0f);
  from.read(piece, segments, dtype::fp32, std::as_writable_bytes(std::span(out)));
  return out;
}

}  // namespace

TEST_SUITE("checkpoint/published") {
  TEST_CASE("any flat range of any box is read as the whole tensor has it, from tensors of one expert or fused ones") {
    const temporary_folder folder;
    const published_reader from(disk(), folder.put("a.safetensors", file_of(expert_tensors())));
    const shape global{experts, rows, columns};
    int wrong = 0, pieces = 0;
    for (const bool fused : {false, true})
      for (const shape extent : {shape{4, 6, 5}, shape{1, 6, 5}, shape{2, 3, 5}, shape{2, 2, 2}, shape{4, 1, 3}})
        for (extent_t corner = 0; corner < 8; ++corner) {
          box where{global, {}, extent};
          for (int d = 0; d < 3; ++d) where.offset[std::size_t(d)] = corner >> d & 1 ? global[d] - extent[d] : 0;
          for (extent_t parts = 1; parts <= 3; ++parts)
            for (extent_t part = 0; part < parts; ++part) {
              const tensor_piece piece{where, shard_of(extent.size(), parts, part), global.size()};
              const std::vector<float> found = read(from, piece, expert_segments(fused));
              for (extent_t i = 0; i < piece.range.size(); ++i)
                wrong += found[std::size_t(i)] != float(where.global_index(piece.range.begin + i));
              ++pieces;
            }
        }
    CHECK(wrong == 0);
    CHECK(pieces == 2 * 5 * 8 * 6);
  }
  TEST_CASE("elements that only pad are left as they are") {
    const temporary_folder folder;
    const published_reader from(disk(), folder.put("a.safetensors", file_of({{"w", {3, 2}, counted(6, 0)}})));
    const std::vector<published_segment> segments{{"w", 0, 0, 6, {3, 2}}};
    const tensor_piece piece{{{4, 2}, {2, 0}, {2, 2}}, {0, 4}, 6};
    CHECK(read(from, piece, segments) == std::vector<float>{4, 5, -1, -1});
  }
  TEST_CASE("bf16 is read as bf16 bit by bit, and as fp32 and fp64 exactly") {
    const temporary_folder folder;
    const std::vector<float> values{1.0f, -0.0f, 3.140625f, 1e-40f, 2e38f, -7.0f};
    const published_reader from(disk(), folder.put("a.safetensors", file_of({{"w", {6}, values}}, file_dtype::bf16)));
    const std::vector<published_segment> segments{{"w", 0, 0, 6, {6}}};
    std::vector<bf16> same(6);
    std::vector<double> wide(6);
    from.read(whole({6}), segments, dtype::bf16, std::as_writable_bytes(std::span(same)));
    from.read(whole({6}), segments, dtype::fp64, std::as_writable_bytes(std::span(wide)));
    for (std::size_t i = 0; i < 6; ++i) {
      CHECK(same[i].bits == bf16(values[i]).bits);
      CHECK(wide[i] == double(float(same[i])));
    }
  }
  TEST_CASE("strided runs are read in few blocks, far ones apart, and large ones without going through a block") {
    const temporary_folder folder;
    const extent_t n = 512;
    counting_storage counting(disk());
    const std::string path = folder.put(
        "a.safetensors", file_of({{"w", {512, 512}, counted(512 * 512, 0)}, {"large", {3 * 512 * 512}, counted(3 * 512 * 512, 0)}}));
    const published_reader from(counting, path);
    const std::vector<published_segment> segments{{"w", 0, 0, n * n, {n, n}}};
    const auto cost = [&](const box& where) {
      counting.reset();
      const tensor_piece piece{where, {0, where.size()}, n * n};
      const std::vector<float> found = read(from, piece, segments);
      int wrong = 0;
      for (extent_t i = 0; i < where.size(); ++i) wrong += found[std::size_t(i)] != float(where.global_index(i));
      CHECK(wrong == 0);
      return counting.reads.load();
    };
    CHECK(cost({{n, n}, {0, 128}, {n, 128}}) <= 2);  // 512 runs of 512 bytes, 2 KiB apart
    CHECK(counting.bytes_read <= std::uint64_t(n * n * 4));
    CHECK(cost({{n, n}, {128, 0}, {128, n}}) == 1);  // one run
    CHECK(counting.bytes_read == std::uint64_t(128 * n * 4));
    counting.reset();
    const std::vector<published_segment> apart{{"w", 0, 0, 10, {}}, {"w", 100'000, 10, 10, {}}};
    CHECK(read(from, whole({20}), apart)[10] == 100'000);
    CHECK(counting.reads == 2);  // 400 kB apart
    CHECK(counting.bytes_read == 80);
    counting.reset();
    CHECK(read(from, whole({3 * n * n}), std::vector<published_segment>{{"large", 0, 0, 3 * n * n, {}}})[1] == 1);
    CHECK(counting.reads == 1);  // 3 MiB
  }
  TEST_CASE("a model in many files is read through its index, with few of them open") {
    const temporary_folder folder;
    std::string map;
    std::vector<published_segment> segments;
    for (int i = 0; i < 12; ++i) {
      const std::string name = sentence("m", i, ".safetensors");
      folder.put(name, file_of({{sentence("w", i), {4}, counted(4, float(4 * i))}, {"unused", {1}, {0}}}));
      map += sentence(i ? ",\"w" : "\"w", i, "\":\"", name, "\"");
      segments.push_back({sentence("w", i), 0, 4 * i, 4, {4}});
    }
    folder.put(index_file_name, "{\"weight_map\":{" + map + "}}");
    const published_reader from(disk(), folder.path.string());
    CHECK(from.size() == 12);
    CHECK(from.bytes() == 12 * 16);
    CHECK(from[1].name == "w1");
    CHECK(from.find("w11"));
    CHECK(!from.find("unused"));
    CHECK(!from.find("w12"));
    CHECK(read(from, whole({48}), segments) == counted(48, 0));
    const published_reader again(disk(), folder.path.string() + "/");
    CHECK(read(again, whole({48}), segments) == counted(48, 0));
  }
  TEST_CASE("a folder without a model, and an index that does not fit its files, are refused") {
    const temporary_folder folder;
    const auto refused = [&](const char* words) {
      CHECK_THROWS_WITH_AS(published_reader(disk(), folder.path.string()), doctest::Contains(words), config_error);
    };
    refused("holds neither model.safetensors nor model.safetensors.index.json");
    folder.put(index_file_name, R"({"weight_map":{"w":"a.safetensors"}})");
    refused("the file 'a.safetensors' that it names is missing");
    folder.put("a.safetensors", file_of({{"v", {1}, {0}}}));
    refused("tensor 'w' is not in 'a.safetensors'");
    folder.put("a.safetensors", "short");
    refused("at least 8");
    folder.put("a.safetensors", file_of({{"w", {1}, {0}}}));
    CHECK_NOTHROW(published_reader(disk(), folder.path.string()));
    std::filesystem::remove(folder.path / index_file_name);
    std::filesystem::rename(folder.path / "a.safetensors", folder.path / single_file_name);
    CHECK(published_reader(disk(), folder.path.string()).size() == 1);
  }
  TEST_CASE("a tensor that is missing, of another shape or type is named with what was found and what is needed") {
    const temporary_folder folder;
    const std::string path = folder.put("a.safetensors", file_of({{"model.a", {2, 3}, counted(6, 0)}, {"model.b", {6}, counted(6, 0)}}));
    const published_reader from(disk(), path);
    const auto refused = [&](const published_segment& s, const std::string& words) {
      const std::vector<published_segment> segments{s};
      CHECK_THROWS_WITH_AS(read(from, whole({s.count}), segments), doctest::Contains(words.c_str()), format_error);
    };
    refused({"model.c", 0, 0, 6, {6}},
            sentence("'", path, "' at byte 0: there is no tensor 'model.c' among 2, for example 'model.a', 'model.b'"));
    refused({"model.a", 0, 0, 6, {3, 2}}, "tensor 'model.a' has shape [2, 3], the model needs [3, 2]");
    refused({"model.a", 0, 0, 6, {6}}, "tensor 'model.a' has shape [2, 3], the model needs [6]");
    refused({"model.a", 0, 0, 7, {}}, "tensor 'model.a' [2, 3] has 6 elements, the model needs 7 from 0");
    refused({"model.a", 5, 0, 2, {}}, "needs 2 from 5");
    folder.put("b.safetensors", lay_out(std::vector<tensor_to_store>{{"w", file_dtype::i32, {1}}}, {}).header + "1234");
    const published_reader numbers(disk(), folder.file("b.safetensors"));
    const std::vector<published_segment> w{{"w", 0, 0, 1, {1}}};
    CHECK_THROWS_WITH_AS(read(numbers, whole({1}), w), doctest::Contains("tensor 'w' is of I32, needed are numbers that become F32"),
                         format_error);
  }
  TEST_CASE("segments with a gap, and a buffer of another size, are the caller's mistake") {
    const temporary_folder folder;
    const published_reader from(disk(), folder.put("a.safetensors", file_of({{"w", {6}, counted(6, 0)}})));
    CHECK_THROWS_AS(read(from, whole({4}), std::vector<published_segment>{{"w", 0, 0, 2, {}}, {"w", 2, 3, 1, {}}}), error);
    CHECK_THROWS_AS(read(from, whole({4}), std::vector<published_segment>{{"w", 0, 0, 3, {}}}), error);
    std::vector<float> small(3);
    const std::vector<published_segment> w{{"w", 0, 0, 4, {}}};
    CHECK_THROWS_AS(from.read(whole({4}), w, dtype::fp32, std::as_writable_bytes(std::span(small))), error);
  }
  TEST_CASE("a file that shrinks after it was opened is an error") {
    const temporary_folder folder;
    const std::string path = folder.put("a.safetensors", file_of({{"w", {1000}, counted(1000, 0)}}));
    const published_reader from(disk(), path);
    std::filesystem::resize_file(path, 1000);
    CHECK_THROWS_AS(read(from, whole({1000}), std::vector<published_segment>{{"w", 0, 0, 1000, {}}}), format_error);
  }
}
