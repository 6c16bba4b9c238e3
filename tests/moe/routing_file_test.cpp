#include <moefold/moe/routing_file.hpp>

#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>
#include <iterator>

using namespace moefold;
namespace fs = std::filesystem;

namespace {

// A file that is gone at the end of the test.
struct temporary_file {
  fs::path folder;
  std::string path;
  temporary_file() {
    std::string name = (fs::temp_directory_path() / "moefold_routing_XXXXXX").string();
    folder = mkdtemp(name.data());
    path = (folder / "run.routing").string();
  }
  ~temporary_file() { fs::remove_all(folder); }

  void put(const std::string& bytes) const {
    fs::remove(path);  // a new file is quicker than an old one cut to nothing
    std::ofstream(path, std::ios::binary) << bytes;
  }
  std::string bytes() const {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  std::string quoted() const { return "moefold: routing file '" + path + "'"; }
};

constexpr extent_t steps = 2, layers = 3, samples = 2, sequence = 4, top_k = 2, experts = 8;
const std::string header = "moefold routing 1 steps 2 layers 3 samples 2 sequence 4 top_k 2 experts 8\n";
const std::string again = "; record it again with `train --record-routing FILE`";

routing_trace sample() {
  routing_trace trace(steps, layers, samples, sequence, top_k);
  const auto c = trace.choices();
  for (std::size_t i = 0; i < c.size(); i += 2) {
    if (i % 10 == 4) continue;  // not recorded
    c[i] = std::int32_t(i * 5 % 8);
    c[i + 1] = std::int32_t((i * 5 + 3) % 8);
  }
  return trace;
}

std::string file_of(const routing_trace& trace) {
  return header + std::string(reinterpret_cast<const char*>(trace.choices().data()), trace.choices().size_bytes());
}

// Reads `bytes` as a file; "" or the refusal. Anything but a config_error fails the test.
std::string refusal(const temporary_file& file, const std::string& bytes) {
  file.put(bytes);
  try {
    const stored_routing read = read_routing(file.path);
    const auto& t = read.trace;
    CHECK(extent_t(t.choices().size()) == t.steps() * t.layers() * t.samples() * t.sequence() * t.top_k());
    return "";
  } catch (const config_error& e) {
    return e.what();
  }
}
bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_SUITE("moe/routing_file") {
  TEST_CASE("what was written is read back bit for bit") {
    const temporary_file file;
    const routing_trace trace = sample();
    write_routing(file.path, trace, experts);
    const stored_routing read = read_routing(file.path);
    CHECK(read.trace == trace);
    CHECK(read.experts == experts);
    CHECK(read.trace.layers() == layers);
    CHECK(read.trace.samples() == samples);
    CHECK(read.trace.sequence() == sequence);
    CHECK(read.trace.top_k() == top_k);
    write_routing(file.path, read.trace, read.experts);
    CHECK(file.bytes() == file_of(trace));
    CHECK(std::distance(fs::directory_iterator(file.folder), fs::directory_iterator()) == 1);
  }
  TEST_CASE("the bytes are the header line and little-endian numbers in the order of the trace") {
    const temporary_file file;
    routing_trace trace(1, 1, 1, 2, 1);
    trace.at({0, 0, 1, {2}}, 0, 1)[0] = 258;
    write_routing(file.path, trace, 300);
    CHECK(file.bytes() ==
          "moefold routing 1 steps 1 layers 1 samples 1 sequence 2 top_k 1 experts 300\n" + std::string("\xFF\xFF\xFF\xFF\x02\x01\0\0", 8));
  }
  TEST_CASE("a file cut short anywhere is refused") {
    const temporary_file file;
    const std::string whole = file_of(sample());
    CHECK(refusal(file, whole) == "");
    for (std::size_t length = 0; length < whole.size(); ++length) CHECK(has(refusal(file, whole.substr(0, length)), again));
    CHECK(refusal(file, whole.substr(0, whole.size() - 1)) ==
          file.quoted() + " is cut short: it has 383 bytes of choices, needs 4 bytes for each of '" + header.substr(0, header.size() - 1) +
              "'" + again);
    CHECK(refusal(file, "") == file.quoted() + " begins with '', needs 'moefold routing '" + again);
    CHECK(refusal(file, whole + "x") == file.quoted() + " is too long: it has 385 bytes of choices, needs 384" + again);
  }
  TEST_CASE("any other byte anywhere is read as something valid or refused") {
    const temporary_file file;
    const std::string whole = file_of(sample());
    int valid = 0;
    for (std::size_t i = 0; i < whole.size(); ++i)
      for (int bit = 0; bit < 8; ++bit) {
        std::string flipped = whole;
        flipped[i] = char(flipped[i] ^ (1 << bit));
        const std::string said = refusal(file, flipped);
        if (i < header.size() - 2) CHECK(said != "");  // but the number of experts, every number is bound to the length
        valid += said == "";
      }
    CHECK(valid > 0);
    for (std::size_t i = 0; i < header.size(); ++i)
      for (int value = 0; value < 256; value += 3) {
        std::string changed = whole;
        changed[i] = char(value);
        refusal(file, changed);
      }
  }
  TEST_CASE("a header says what is wrong with it") {
    const temporary_file file;
    const std::string data = file_of(sample()).substr(header.size());
    const auto said = [&](const std::string& line) { return refusal(file, line + "\n" + data); };
    const auto with = [&](const std::string& from, const std::string& to) {
      std::string line = header.substr(0, header.size() - 1);
      return said(line.replace(line.find(from), from.size(), to));
    };
    CHECK(with("routing 1", "routing 2") == file.quoted() + " has version '2', this moefold reads version 1" + again);
    CHECK(with("layers 3", "layer 3") == file.quoted() + " has 'layer' in its header where 'layers' and its number are needed" + again);
    CHECK(has(with(" experts 8", ""), "has '' in its header where 'experts'"));
    CHECK(has(with("layers 3 samples 2", "samples 2 layers 3"), "has 'samples' in its header where 'layers'"));
    CHECK(has(with("experts 8", "experts"), "has experts '', needs a number from 1 to"));
    CHECK(with("steps 2", "steps -2") == file.quoted() + " has steps -2, needs at least 1" + again);
    CHECK(has(with("steps 2", "steps 0"), "has steps 0, needs at least 1"));
    CHECK(has(with("steps 2", "steps 2x"), "has steps '2x'"));
    CHECK(has(with("steps 2", "steps 99999999999999999999"),
              "has steps '99999999999999999999', needs a number from 1 to 9223372036854775807"));
    CHECK(has(with("steps 2", "steps 9223372036854775807"), "is cut short"));
    CHECK(has(with("steps 2 layers 3", "steps 4294967296 layers 4294967296"), "is cut short"));  // the product is 0 in 64 bits
    CHECK(has(with("experts 8", "experts 2147483648"), "has experts 2147483648, needs at most 2147483647"));
    CHECK(has(with("experts 8", "experts 1"), "has top_k 2 of experts 1, needs at least as many experts"));
    CHECK(has(with("steps 2", "steps 02"), "has more in its header than the line"));
    CHECK(has(with("experts 8", "experts 8 "), "has more in its header than the line"));
    CHECK(has(with("experts 8", "experts 8 seed 1"), "has more in its header than the line"));
    CHECK(has(with("experts 8", "experts 8\r"), "has experts '8?'"));
    CHECK(has(with("steps 2", "  steps 2"), "has '' in its header where 'steps'"));
    CHECK(has(said("\x7F"
                   "ELF\x01" +
                   std::string(100, '\0')),
              "begins with '?ELF?" + std::string(35, '?') + "...', needs 'moefold routing '"));
    CHECK(refusal(file, "moefold routing 1 " + std::string(5000, ' ') + "\n") ==
          file.quoted() + " has no line end in its first 4096 bytes, needs one header line of at most 4096 bytes" + again);
  }
  TEST_CASE("wrong choices are named by step, layer, sample and position") {
    const temporary_file file;
    const auto said = [&](std::int32_t first, std::int32_t second) {
      routing_trace trace = sample();
      std::int32_t* choice = trace.at({1, 0, 2, {sequence}}, 1, 2 * 3 + 1);  // step 1, layer 1, sample 1, position 3
      choice[0] = first;
      choice[1] = second;
      CHECK_THROWS_WITH_AS(write_routing(file.path + ".not", trace, experts),
                           doctest::Contains(" at step 1, layer 1, sample 1, position 3, needs 2 different experts"), config_error);
      CHECK_FALSE(fs::exists(file.path + ".not"));
      return refusal(file, file_of(trace));
    };
    const std::string place = " at step 1, layer 1, sample 1, position 3, needs 2 different experts of 0 .. 7 or -1 in all" + again;
    CHECK(said(8, 0) == file.quoted() + " has expert 8" + place);
    CHECK(said(1, std::numeric_limits<std::int32_t>::max()) == file.quoted() + " has expert 2147483647" + place);
    CHECK(said(0, -2) == file.quoted() + " has expert -2" + place);
    CHECK(said(5, 5) == file.quoted() + " has expert 5 twice" + place);
    CHECK(said(-1, 4) == file.quoted() + " has -1 beside expert 4" + place);
    CHECK(said(4, -1) == file.quoted() + " has -1 beside expert 4" + place);
  }
  TEST_CASE("one token with very many choices is read in little time") {
    const temporary_file file;
    constexpr std::int32_t many = 300'000;
    routing_trace trace(1, 1, 1, 1, many);
    for (std::int32_t i = 0; i < many; ++i) trace.choices()[std::size_t(i)] = many - 1 - i;
    write_routing(file.path, trace, many);
    CHECK(read_routing(file.path).trace == trace);
  }
  TEST_CASE("a trace that could not be read back is not written") {
    const temporary_file file;
    CHECK_THROWS_WITH_AS(write_routing(file.path, routing_trace(0, 1, 1, 1, 1), 8),
                         doctest::Contains("has steps 0, needs at least 1; record a whole run"), config_error);
    CHECK_THROWS_WITH_AS(write_routing(file.path, sample(), 1), doctest::Contains("has top_k 2 of experts 1"), config_error);
    CHECK_FALSE(fs::exists(file.path));
  }
  TEST_CASE("files that cannot be opened are refused by name and reason, and nothing is waited for") {
    const temporary_file file;
    CHECK_THROWS_WITH_AS(read_routing(file.path),
                         ("moefold: cannot open routing file '" + file.path +
                          "': No such file or directory; check the path, or record one with `train --record-routing FILE`")
                             .c_str(),
                         config_error);
    CHECK_THROWS_WITH_AS(read_routing(file.folder.string()), doctest::Contains("is a folder or device, needs a plain file"), config_error);
    REQUIRE(mkfifo(file.path.c_str(), 0600) == 0);
    CHECK_THROWS_WITH_AS(read_routing(file.path), doctest::Contains("is a folder or device, needs a plain file"), config_error);
    CHECK_THROWS_WITH_AS(write_routing("/no/such/folder/r", sample(), experts),
                         "moefold: cannot write routing file '/no/such/folder/r': No such file or directory; name a file in a folder that "
                         "exists and is writable",
                         config_error);
  }
}
