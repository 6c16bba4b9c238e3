#include <moefold/checkpoint/published_writer.hpp>

#include <moefold/checkpoint/posix_storage.hpp>

#include <support/counting_storage.hpp>
#include <support/temporary_folder.hpp>

#include <doctest/doctest.h>

using namespace moefold;

namespace {

const shape global{4, 6, 5};
const std::vector<tensor_to_store> plan{{"e0", file_dtype::bf16, {6, 5}},
                                        {"e1", file_dtype::bf16, {6, 5}},
                                        {"e2", file_dtype::bf16, {6, 5}},
                                        {"e3", file_dtype::bf16, {6, 5}},
                                        {"s", file_dtype::f32, {}}};
std::vector<published_segment> segments() {
  std::vector<published_segment> all;
  for (extent_t e = 0; e < 4; ++e) all.push_back({sentence("e", e), 0, e * 30, 30, {6, 5}});
  return all;
}
std::vector<float> values_of(const tensor_piece& piece) {
  std::vector<float> values;
  for (extent_t i = piece.range.begin; i < piece.range.end; ++i) values.push_back(float(piece.where.global_index(i)) / 8);
  return values;
}
const tensor_piece scalar{{{1}, {}, {1}}, {0, 1}, 1};

/// Rank `rank` of 8 writes: 2 x 2 boxes over experts and columns (the last is cut unevenly by none), each cut into 2 flat ranges.
void write(published_writer& out, extent_t rank) {
  const box where{global, {(rank & 1) * 2, (rank >> 1 & 1) * 3, 0}, {2, 3, 5}};
  const tensor_piece piece{where, shard_of(where.size(), 2, rank >> 2), global.size()};
  const std::vector<float> values = values_of(piece);
  out.write(piece, segments(), dtype::fp32, std::as_bytes(std::span(values)));
  const float one = 2.5f;
  if (rank == 0) out.write(scalar, std::vector<published_segment>{{"s", 0, 0, 1, {}}}, dtype::fp32, std::as_bytes(std::span(&one, 1)));
}
std::uint64_t write_all(const std::string& path, std::uint64_t file_bytes = published_writer::default_file_bytes) {
  std::uint64_t written = 0;
  for (extent_t rank = 0; rank < 8; ++rank) {
    published_writer out(disk(), path, plan, file_bytes);
    if (rank == 0) out.create();
    write(out, rank);
    out.finish();
    written += out.written();
    CHECK(out.elements() == 121);
  }
  return written;
}

}  // namespace

TEST_SUITE("checkpoint/published_writer") {
  TEST_CASE("what eight ranks wrote is read back as it was, from one file or several") {
    for (const std::uint64_t file_bytes : {std::uint64_t{1} << 30, std::uint64_t{120}, std::uint64_t{1}}) {
      const temporary_folder folder;
      CHECK(write_all(folder.file("out"), file_bytes) == 121);
      const published_reader from(disk(), folder.file("out"));
      CHECK(from.size() == 5);
      const tensor_piece whole{{global, {}, global}, {0, global.size()}, global.size()};
      std::vector<float> found(120);
      from.read(whole, segments(), dtype::fp32, std::as_writable_bytes(std::span(found)));
      CHECK(found == values_of(whole));
      float one = 0;
      from.read(scalar, std::vector<published_segment>{{"s", 0, 0, 1, {}}}, dtype::fp32, std::as_writable_bytes(std::span(&one, 1)));
      CHECK(one == 2.5f);
    }
  }
  TEST_CASE("files are filled in order up to their size, and numbered as the index says") {
    const published_writer one(disk(), "out", plan);
    CHECK(one.file_names() == std::vector<std::string>{"model.safetensors"});
    const published_writer three(disk(), "out/", plan, 120);  // two experts of 60 bytes each
    CHECK(three.file_names() == std::vector<std::string>{"model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors",
                                                         "model-00003-of-00003.safetensors"});
    const json_value index = read_json(three.index_text(), "index");
    CHECK(index.at("metadata").at("total_size").integer<int>() == 244);
    CHECK(index.at("weight_map").at("e1").text() == "model-00001-of-00003.safetensors");
    CHECK(index.at("weight_map").at("e2").text() == "model-00002-of-00003.safetensors");
    CHECK(index.at("weight_map").at("s").text() == "model-00003-of-00003.safetensors");
    CHECK(published_writer(disk(), "out", plan, 1).file_names().size() == 5);  // a tensor larger than a file has one of its own
    CHECK(published_writer(disk(), "a.safetensors", plan, 1).file_names() == std::vector<std::string>{"a.safetensors"});
    CHECK(published_writer(disk(), "out", {}).file_names().size() == 1);
  }
  TEST_CASE("a path that names a file is one file, with its metadata and exactly its bytes") {
    const temporary_folder folder;
    write_all(folder.file("g.safetensors"));
    const auto file = disk().open(folder.file("g.safetensors"));
    CHECK(read_safetensors_header(*file).metadata().at("format") == "pt");
    CHECK(file->size() == published_writer(disk(), folder.file("g.safetensors"), plan).bytes());
    CHECK(!disk().exists(folder.file(index_file_name)));
  }
  TEST_CASE("an existing file is never overwritten, and nothing is written beside the plan") {
    const temporary_folder folder;
    folder.put(single_file_name, "old");
    published_writer out(disk(), folder.path.string(), plan);
    CHECK_THROWS_WITH_AS(out.create(), doctest::Contains("File exists"), storage_error);
    CHECK(folder.text(single_file_name) == "old");

    published_writer other(disk(), folder.file("b.safetensors"), {{"e0", file_dtype::bf16, {3}}});
    other.create();
    const std::vector<float> values(4);
    const tensor_piece piece{{{4}, {}, {4}}, {0, 4}, 4};
    const auto write_as = [&](const published_segment& s) {
      other.write(piece, std::vector<published_segment>{s}, dtype::fp32, std::as_bytes(std::span(values)));
    };
    CHECK_THROWS_WITH_AS(write_as({"e1", 0, 0, 4, {}}), doctest::Contains("has no tensor 'e1'"), error);
    CHECK_THROWS_WITH_AS(write_as({"e0", 0, 0, 4, {}}), doctest::Contains("tensor 'e0' has 3 elements in the plan; 4 from 0"), error);
    CHECK_THROWS_AS(published_writer(disk(), "out", {{"a", file_dtype::f32, {1}}, {"a", file_dtype::f32, {1}}}, 1), config_error);
  }
  TEST_CASE("bf16 goes to a file and comes back bit by bit, through fp32 too") {
    const temporary_folder folder;
    std::vector<std::uint16_t> all;
    for (std::uint32_t bits = 0; bits < 0x10000; ++bits)
      all.push_back(std::uint16_t((bits & 0x7f80) == 0x7f80 ? bits & 0xff80 : bits));  // no NaN
    const tensor_piece piece{{{65'536}, {}, {65'536}}, {0, 65'536}, 65'536};
    const std::vector<published_segment> w{{"w", 0, 0, 65'536, {256, 256}}};
    published_writer out(disk(), folder.path.string(), {{"w", file_dtype::bf16, {256, 256}}});
    out.create();
    out.write(piece, w, dtype::bf16, std::as_bytes(std::span(all)));
    out.finish();
    std::vector<std::uint16_t> back(all.size());
    std::vector<float> wide(all.size());
    const published_reader from(disk(), folder.path.string());
    from.read(piece, w, dtype::bf16, std::as_writable_bytes(std::span(back)));
    CHECK(back == all);
    from.read(piece, w, dtype::fp32, std::as_writable_bytes(std::span(wide)));
    published_writer again(disk(), folder.file("b.safetensors"), {{"w", file_dtype::bf16, {256, 256}}});
    again.create();
    again.write(piece, w, dtype::fp32, std::as_bytes(std::span(wide)));
    again.finish();
    CHECK(folder.text("b.safetensors") == folder.text(single_file_name));
  }
  TEST_CASE("the end of a run in one file and the beginning of the next in another are not taken for neighbours") {
    const temporary_folder folder;
    published_writer out(disk(), folder.path.string(), {{"a", file_dtype::f32, {4}}, {"b", file_dtype::f32, {4}}}, 16);
    out.create();
    const std::vector<float> values{1, 2, 3, 4};  // a[0], a[1], and at the next bytes, but of the second file, b[2], b[3]
    const tensor_piece piece{{{4}, {}, {4}}, {0, 4}, 4};
    out.write(piece, std::vector<published_segment>{{"a", 0, 0, 2, {}}, {"b", 2, 2, 2, {}}}, dtype::fp32, std::as_bytes(std::span(values)));
    out.finish();
    const published_reader from(disk(), folder.path.string());
    std::vector<float> back(8);
    from.read({{{8}, {}, {8}}, {0, 8}, 8}, std::vector<published_segment>{{"a", 0, 0, 4, {}}, {"b", 0, 4, 4, {}}}, dtype::fp32,
              std::as_writable_bytes(std::span(back)));
    CHECK(back == std::vector<float>{1, 2, 0, 0, 0, 0, 3, 4});
  }
  TEST_CASE("neighbours are written together, a megabyte at a time") {
    const temporary_folder folder;
    counting_storage counting(disk());
    const extent_t n = 1'000'000;
    published_writer out(counting, folder.path.string(), {{"w", file_dtype::bf16, {std::uint64_t(n)}}});
    out.create();
    counting.reset();
    const std::vector<float> values(std::size_t(n), 1.0f);
    std::vector<published_segment> many;
    for (extent_t i = 0; i < 1000; ++i) many.push_back({"w", i * 1000, i * 1000, 1000, {}});
    out.write({{{n}, {}, {n}}, {0, n}, n}, many, dtype::fp32, std::as_bytes(std::span(values)));
    CHECK(counting.writes <= 3);
    CHECK(counting.bytes_written == std::uint64_t(2 * n));
  }
}
