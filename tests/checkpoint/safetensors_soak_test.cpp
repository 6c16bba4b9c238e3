// Files made to cost as much as they can, and every small damage to a file: in full, where safetensors_test.cpp takes samples.
#include <moefold/checkpoint/posix_storage.hpp>
#include <moefold/checkpoint/safetensors.hpp>

#include <support/malformed_safetensors.hpp>
#include <support/temporary_folder.hpp>

#include <doctest/doctest.h>

#include <ctime>
#include <random>

#include <sys/resource.h>
#include <sys/wait.h>

using namespace moefold;

namespace {

std::string padded(std::string json) {
  json.resize((json.size() + 7) / 8 * 8, ' ');
  return json;
}
/// `count` entries, each a name of few letters and the text behind it.
std::string entries(std::size_t count, const std::string& text) {
  std::string json = "{";
  for (std::size_t i = 0; i < count; ++i) json += sentence(i ? ",\"" : "\"", i, "\":", text);
  return json + "}";
}
struct cost {
  double seconds = 0;  // of the processor
  double bytes = 0;    // the most at once, beyond what the process had
  bool accepted = false;
};
/// Reads the header in a process of its own.
cost cost_of(const std::string& path) {
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  const pid_t child = fork();
  if (child == 0) {
    std::ofstream("/proc/self/clear_refs") << 5;  // forgets the peak so far
    const auto peak = [] {
      std::ifstream status("/proc/self/status");
      for (std::string line; std::getline(status, line);)
        if (line.starts_with("VmHWM:")) return 1024 * std::atof(line.c_str() + 6);
      return 0.0;
    };
    cost found{.bytes = -peak()};
    const std::clock_t begin = std::clock();
    try {
      const safetensors_header header = read_safetensors_header(*disk().open(path));
      found.accepted = true;
      found.seconds = double(std::clock() - begin) / CLOCKS_PER_SEC;
    } catch (const format_error&) {
      found.seconds = double(std::clock() - begin) / CLOCKS_PER_SEC;
    }
    found.bytes += peak();
    _exit(write(ends[1], &found, sizeof found) == sizeof found ? 0 : 1);
  }
  cost found;
  int status = 1;
  CHECK(read(ends[0], &found, sizeof found) == sizeof found);
  close(ends[0]), close(ends[1]);
  waitpid(child, &status, 0);
  CHECK(status == 0);
  return found;
}

}  // namespace

TEST_SUITE("checkpoint/safetensors_soak") {
  TEST_CASE("no header takes more memory than twice its file and 64 MiB, or more than a second for 10 MB") {
    struct heavy {
      std::string what;
      std::string json;
      bool accepted;
    };
    const std::string empty = R"({"dtype":"U8","shape":[0],"data_offsets":[0,0]})";
    std::string zeros;
    for (int i = 0; i < 49'000'000; ++i) zeros += "0,";
    const std::vector<heavy> files{{"a million tensors", entries(1'000'000, empty), true},
                                   {"a million and one", entries(1'000'001, empty), false},
                                   {"a million tensors of eight extents",
                                    entries(1'000'000, R"({"dtype":"U8","shape":[1,1,1,1,1,1,1,0],"data_offsets":[0,0]})"), true},
                                   {"a hundred thousand metadata", "{\"__metadata__\":" + entries(100'000, "\"\"") + "}", true},
                                   {"a million metadata", "{\"__metadata__\":" + entries(999'000, "\"\"") + "}", false},
                                   {"one text of 99 MB", "{\"" + std::string(99'000'000, 'x'), false},
                                   {"one number of 99 MB", "{\"w\":" + std::string(99'000'000, '1'), false},
                                   {"99 MB of brackets", "{\"w\":" + std::string(99'000'000, '['), false},
                                   {"99 MB of extents", "{\"w\":{\"shape\":[" + zeros, false},
                                   {"99 MB of spaces", "{" + std::string(99'000'000, ' ') + "}", true},
                                   {"99 MB of escapes", "{\"" + std::string(99'000'000, '\\'), false},
                                   {"names of 40 bytes",
                                    [&] {
                                      std::string json = "{";
                                      for (int i = 0; i < 700'000; ++i)
                                        json += sentence(i ? ",\"" : "\"", 1'000'000'000 + i, std::string(30, 'n'), "\":", empty);
                                      return json + "}";
                                    }(),
                                    true}};
    const temporary_folder folder;
    for (const heavy& file : files) {
      const std::string bytes = safetensors_bytes(padded(file.json), 0);
      const cost found = cost_of(folder.put("a.safetensors", bytes));
      INFO(file.what << ": " << bytes.size() << " bytes, " << found.seconds << " s, peak " << found.bytes);
      CHECK(found.accepted == file.accepted);
      CHECK(found.bytes <= 2.0 * double(bytes.size()) + 64.0 * 1024 * 1024);
      CHECK(found.seconds <= 0.5 + double(bytes.size()) / 1e7);
      MESSAGE(file.what << ": " << double(bytes.size()) / 1e6 << " MB, " << found.seconds << " s, peak " << found.bytes / 1e6 << " MB");
    }
  }
  TEST_CASE("a file of 60 KiB cut at any byte is refused") {
    std::vector<tensor_to_store> tensors;
    for (int i = 0; i < 500; ++i) tensors.push_back({sentence("layers.", i, ".w"), file_dtype::bf16, {2, 10}});
    const safetensors_layout layout = lay_out(tensors, {{"format", "pt"}});
    const std::string good = layout.header + std::string(layout.file_size - layout.header.size(), 'x');
    const temporary_folder folder;
    const std::string path = folder.put("a.safetensors", good);
    CHECK_NOTHROW(read_safetensors_header(*disk().open(path)));
    int accepted = 0;
    for (std::size_t size = good.size(); size-- > 0;) {
      std::filesystem::resize_file(path, size);
      try {
        read_safetensors_header(*disk().open(path));
        ++accepted;
      } catch (const format_error&) {
      }
    }
    CHECK(accepted == 0);
  }
  TEST_CASE("a hundred thousand random damages give an error, or a header that owns every byte once") {
    std::mt19937 random(1);
    const auto seeds = wellformed_safetensors();
    for (int i = 0; i < 100'000; ++i) {
      std::string bytes = seeds[random() % seeds.size()];
      for (unsigned n = random() % 3 + 1; n > 0; --n)
        bytes[random() % bytes.size()] = char(random() % 3 ? "0123456789{}[]\",:\\eU"[random() % 20] : random());
      const std::string json = bytes.substr(8);
      try {
        const std::uint64_t length = std::min<std::uint64_t>(load<std::uint64_t>(bytes_of(std::string_view(bytes)), 0), json.size());
        const auto header = safetensors_header::parse(std::string_view(json).substr(0, length), "a", bytes.size());
        std::uint64_t owned = 0;
        for (std::size_t t = 0; t < header.size(); ++t) owned += header[t].end - header[t].begin;
        CHECK(owned == json.size() - length);
      } catch (const format_error&) {
      }
    }
  }
}
