#include <moefold/train/metrics.hpp>

#include <doctest/doctest.h>

#include <bit>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>

using namespace moefold;

namespace {

// A strict reader of one JSON value: returns the position behind it, or npos.
std::size_t skip_value(const std::string& s, std::size_t i) {
  constexpr auto bad = std::string::npos;
  if (i >= s.size()) return bad;
  if (s[i] == '"') {
    for (++i; i < s.size() && s[i] != '"'; ++i) {
      if (static_cast<unsigned char>(s[i]) < 0x20) return bad;
      if (s[i] != '\\') continue;
      ++i;
      if (i < s.size() && s[i] == 'u') i += 4;
    }
    return i < s.size() ? i + 1 : bad;
  }
  if (s[i] == '{' || s[i] == '[') {
    const bool object = s[i] == '{';
    const char end = object ? '}' : ']';
    if (s[++i] == end) return i + 1;
    for (;;) {
      if (object) {
        if (s[i] != '"' || (i = skip_value(s, i)) == bad || s[i++] != ':') return bad;
      }
      if ((i = skip_value(s, i)) == bad || i >= s.size()) return bad;
      if (s[i] == end) return i + 1;
      if (s[i++] != ',') return bad;
    }
  }
  if (s.compare(i, 4, "null") == 0) return i + 4;
  const std::size_t end = s.find_first_not_of("+-.0123456789eE", i);
  return end == i ? bad : end;
}
bool is_json(const std::string& s) { return !s.empty() && s[0] == '{' && skip_value(s, 0) == s.size(); }

// The text of a top-level field.
std::string field(const std::string& json, const std::string& name) {
  const std::size_t at = json.find("\"" + name + "\":");
  if (at == std::string::npos) return "(none)";
  const std::size_t from = at + name.size() + 3;
  return json.substr(from, skip_value(json, from) - from);
}

step_record sample() {
  return {.step = 3,
          .loss = 0.1 + 0.2,
          .grad_norm = 1.0,
          .learning_rate = 2.9e-4,
          .tokens = 2048,
          .tokens_per_second = 9213.25,
          .seconds = 0.25,
          .moe_max_over_mean = 1.18,
          .comm_cpu_share = 0.07,
          .expert_load = {{1, 2}, {3, 0}},
          .comm_bytes = {{"tp", 4096}, {"tp x cp", 17}},
          .eval_loss = {}};
}

struct temporary_folder {
  std::filesystem::path path;
  temporary_folder() {
    std::string name = (std::filesystem::temp_directory_path() / "moefold_metrics_XXXXXX").string();
    path = mkdtemp(name.data());
  }
  ~temporary_folder() { std::filesystem::remove_all(path); }
};

std::vector<std::string> lines_of(const std::filesystem::path& path) {
  std::ifstream in(path);
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

}  // namespace

TEST_SUITE("train/metrics") {
  TEST_CASE("a step line has exactly the promised fields") {
    CHECK(
        to_json(sample()) ==
        R"({"step":3,"loss":0.30000000000000004,"grad_norm":1,"lr":0.00029,"tokens":2048,"tokens_per_second":9213.25,"seconds":0.25,)"
        R"("moe_max_over_mean":1.18,"comm_cpu_share":0.07,"expert_load":[[1,2],[3,0]],"load_max_over_mean":[],"comm_bytes":{"tp":4096,"tp x cp":17}})");
  }
  TEST_CASE("evaluation is an extra field of its step's line") {
    step_record step = sample();
    CHECK(field(to_json(step), "eval_loss") == "(none)");
    step.eval_loss = 2.5;
    CHECK(field(to_json(step), "eval_loss") == "2.5");
    CHECK(is_json(to_json(step)));
  }
  TEST_CASE("dropped shares and balance losses are there where the run has them") {
    step_record step = sample();
    CHECK(field(to_json(step), "dropped_share") == "(none)");
    CHECK(field(to_json(step), "balance_losses") == "(none)");
    step.load_max_over_mean = {1.5, 2};
    step.dropped_share = {0, 0.25};
    step.balance_losses = {{"sequence", {0.5, 0.25}}, {"z", {1, 2}}};
    CHECK(is_json(to_json(step)));
    CHECK(to_json(step).ends_with(
        R"("load_max_over_mean":[1.5,2],"comm_bytes":{"tp":4096,"tp x cp":17},"dropped_share":[0,0.25],"balance_losses":{"sequence":[0.5,0.25],"z":[1,2]}})"));
  }
  TEST_CASE("every double reads back as the same bits") {
    std::uint64_t bits = 0x9E3779B97F4A7C15u;
    for (int i = 0; i < 2000; ++i) {
      bits = bits * 6364136223846793005u + 1442695040888963407u;
      const double value = std::bit_cast<double>(bits);
      if (!std::isfinite(value)) continue;
      step_record step = sample();
      step.loss = value;
      const std::string text = field(to_json(step), "loss");
      CHECK(std::strtod(text.c_str(), nullptr) == value);
    }
  }
  TEST_CASE("numbers that are not finite stay valid JSON") {
    step_record step = sample();
    step.loss = std::numeric_limits<double>::quiet_NaN();
    step.grad_norm = -std::numeric_limits<double>::infinity();
    CHECK(is_json(to_json(step)));
    CHECK(field(to_json(step), "loss") == "null");
    CHECK(field(to_json(step), "grad_norm") == "null");
  }
  TEST_CASE("strings are escaped") {
    run_record run{.run = "a \"quoted\\\"\n\x01 name", .world = 1, .precision = "fp32"};
    CHECK(is_json(to_json(run)));
    CHECK(field(to_json(run), "run") == R"("a \"quoted\\\"\u000a\u0001 name")");
  }
  TEST_CASE("empty lists and objects are valid JSON") {
    CHECK(is_json(to_json(step_record{})));
    CHECK(is_json(to_json(run_record{})));
    CHECK(field(to_json(step_record{}), "expert_load") == "[]");
    CHECK(field(to_json(run_record{}), "moe") == "{}");
  }
  TEST_CASE("the file holds the run first, then one line per step, and only these have the key step") {
    const temporary_folder folder;
    const auto path = folder.path / "run.jsonl";
    const run_record run{
        .run = "r", .world = 8, .attention = {{"tp", 2}, {"cp", 2}, {"dp", 1}, {"pp", 2}}, .moe = {{"ep", 4}}, .precision = "fp64"};
    metrics_writer writer(path.string(), run);
    CHECK(lines_of(path).size() == 1);  // readable while the run goes on
    for (int s = 1; s <= 3; ++s) writer.write({.step = s});
    const auto lines = lines_of(path);
    REQUIRE(lines.size() == 4);
    for (const auto& line : lines) CHECK(is_json(line));
    CHECK(lines[0].find("\"step\"") == std::string::npos);
    CHECK(field(lines[0], "attention") == R"({"tp":2,"cp":2,"dp":1,"pp":2})");
    CHECK(field(lines[0], "version") == "\"" MOEFOLD_VERSION "\"");
    for (std::size_t s = 1; s <= 3; ++s) CHECK(field(lines[s], "step") == std::to_string(s));
  }
  TEST_CASE("a spike is a line of its own between step lines, and valid JSON also when the loss is no number") {
    const loss_spike spike{119, 4.5, 2.25, 21, 0};
    CHECK(to_json(spike) == R"({"spike":{"at":120,"loss":4.5,"expected":2.25,"deviations":21,"lasted":0}})");
    CHECK(to_json(loss_spike{4, std::nan(""), 2, std::nan(""), 3}) ==
          R"({"spike":{"at":5,"loss":null,"expected":2,"deviations":null,"lasted":3}})");
    const std::string path = (std::filesystem::temp_directory_path() / "moefold_spike_test.jsonl").string();
    {
      metrics_writer writer(path, {});
      writer.write({.step = 120});
      writer.event(spike);
      std::ifstream in(path);
      std::string line;
      for (int i = 0; i < 3; ++i) std::getline(in, line);
      CHECK(line == to_json(spike));  // on disk at once
    }
    std::filesystem::remove(path);
  }
  TEST_CASE("a file that cannot be written is refused by name") {
    try {
      metrics_writer writer("/no/such/folder/m.jsonl", run_record{});
      FAIL("accepted");
    } catch (const config_error& e) {
      CHECK(std::string(e.what()).find("cannot write metrics file '/no/such/folder/m.jsonl': No such file") != std::string::npos);
    }
  }
  TEST_CASE("a resumed run keeps the lines through the step it goes on behind, says what it is, and goes on") {
    const temporary_folder folder;
    const auto path = folder.path / "run.jsonl";
    {
      metrics_writer writer(path.string(), run_record{.run = "first"});
      for (int s = 1; s <= 5; ++s) writer.write({.step = s});
    }
    std::ofstream(path, std::ios::app) << "{\"step\":6,\"lo";  // killed while it wrote
    {
      metrics_writer writer(path.string(), run_record{.run = "second"}, 3);
      writer.write({.step = 4});
    }
    const auto lines = lines_of(path);
    REQUIRE(lines.size() == 6);
    for (const auto& line : lines) CHECK(is_json(line));
    CHECK(field(lines[3], "step") == "3");
    CHECK(field(lines[4], "run") == "\"second\"");
    CHECK(field(lines[5], "step") == "4");
    metrics_writer((folder.path / "new.jsonl").string(), run_record{.run = "second"}, 3);  // nothing was there
    CHECK(lines_of(folder.path / "new.jsonl").size() == 1);
  }
  TEST_CASE("a full disk is reported") {
    if (!std::filesystem::exists("/dev/full")) return;
    CHECK_THROWS_AS(metrics_writer("/dev/full", run_record{}), error);
  }
}
