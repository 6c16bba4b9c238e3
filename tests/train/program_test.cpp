#include <moefold/train/program.hpp>

#include <doctest/doctest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

using namespace moefold;

namespace {

struct tiny : run_defaults {
  static constexpr model_shape model{
      .layers = 2, .hidden = 16, .heads = 4, .kv_heads = 2, .head_dim = 4, .experts = 4, .ffn = 12, .vocabulary = 128};
  static constexpr extent_t sequence = 16;
  using fold = folding<mesh<tp<2>, dp<dyn>, pp<2>>, mesh<ep<2>, edp<dyn>, pp<2>>>;
};
struct fixed : tiny {
  using fold = folding<mesh<tp<2>, cp<2>>, mesh<ep<4>>>;
};
struct dropping_moe : moe_defaults {
  using tokens = capacity<50, by_position, full_sequence>;
  static constexpr balance_losses balance{.sequence = 0.02, .z = 1e-3};
  static constexpr double jitter = 0.01;
  template <class T, class Comm>
  using dispatcher = all_gather_dispatcher<T, Comm>;
};
struct dropping : fixed {
  using moe = dropping_moe;
};
struct by_rank_moe : moe_defaults {
  using tokens = capacity<50>;
};
struct by_rank : fixed {
  using moe = by_rank_moe;
};
struct any_world : tiny {
  using fold = run_defaults::fold;
};
struct few_tokens : any_world {
  static constexpr model_shape model{
      .layers = 1, .hidden = 16, .heads = 4, .kv_heads = 2, .head_dim = 4, .experts = 4, .ffn = 12, .vocabulary = 100};
};

struct folder {
  std::filesystem::path path;
  folder() {
    std::string name = (std::filesystem::temp_directory_path() / "moefold_program_XXXXXX").string();
    path = mkdtemp(name.data());
  }
  ~folder() { std::filesystem::remove_all(path); }
  std::string file(const char* name, std::size_t bytes) const {
    std::ofstream out(path / name, std::ios::binary);
    for (std::size_t i = 0; i < bytes; ++i) out << "the quick brown fox "[i % 20];
    return (path / name).string();
  }
  std::vector<std::string> lines(const char* name) const {
    std::ifstream in(path / name);
    std::vector<std::string> all;
    for (std::string line; std::getline(in, line);) all.push_back(line);
    return all;
  }
};

program_options options_of(const folder& f, std::int64_t steps = 4) {
  program_options o;
  o.run = "tiny";
  o.data.files = {f.file("text", 4000)};
  o.train.steps = steps;
  return o;
}
bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }
/// The place of the first line that contains the text; -1 if there is none.
int place(const string_sink& log, const std::string& text) {
  for (std::size_t i = 0; i < log.lines.size(); ++i)
    if (has(log.lines[i], text)) return int(i);
  return -1;
}
template <class Run = tiny>
std::string refused(const program_options& options) {
  string_sink log;
  try {
    run_program<Run>(options, log);
  } catch (const config_error& e) {
    CHECK(log.statuses.empty());  // before a step was made
    return e.what();
  }
  return "";
}

}  // namespace

TEST_SUITE("train/program") {
  TEST_CASE("a run prints its folding and its memory, trains with a live line, compares itself with one rank and closes with a sentence") {
    const folder f;
    string_sink log;
    CHECK(run_program<tiny>(options_of(f), log) == 0);
    CHECK(log.lines[0] == "run tiny: 10.4k parameters, 2 layers, 4 experts (top-2), sequence 16, fp32; 4 ranks as threads");
    const int folding = place(log, "one stage"), memory = place(log, "optimizer"),
              data = place(log, "data: 4.0k tokens from 1 file (bytes), ");
    const int compared = place(log, "the first 3 losses are those of a single rank: largest relative difference "),
              end = place(log, "4 steps in ");
    const int closing = place(log, "training loss ");
    CHECK(0 < folding);
    CHECK(folding < memory);
    CHECK(memory < data);
    CHECK(data < compared);
    CHECK(compared < end);
    CHECK(end < closing);
    CHECK(closing == int(log.lines.size()) - 1);
    CHECK(has(log.lines[std::size_t(closing)], "order-0 entropy of the text"));
    CHECK(has(log.lines[std::size_t(end)], "held-out loss "));
    const std::string& line = log.lines[std::size_t(compared)];
    CHECK(std::stod(line.substr(line.rfind(' '))) < 1e-5);
    REQUIRE(log.statuses.size() == 4);
    for (std::size_t s = 0; s < 4; ++s) {
      CHECK(has(log.statuses[s], sentence("step    ", s + 1, "/4 | loss ")));
      for (const char* part : {" | gnorm ", " | lr ", " tok/s | moe ", "% cpu | eta "}) CHECK(has(log.statuses[s], part));
    }
    CHECK(has(log.statuses[3], " | held-out "));
  }
  TEST_CASE("the schedule is drawn with the run's stages and micro-batches; one line says where, and nothing is trained") {
    const folder f;
    program_options o;  // no data needed
    o.train.global_batch = 6, o.train.micro_batch = 2;
    o.draw_schedule = (f.path / "schedule.svg").string();
    string_sink log;
    CHECK(run_program<tiny>(o, log) == 0);
    REQUIRE(log.lines.size() == 1);
    CHECK(log.lines[0] == "schedule one_f_one_b, 2 stages, 3 micro-batches: " + o.draw_schedule);
    CHECK(log.statuses.empty());
    std::string picture;
    for (const std::string& line : f.lines("schedule.svg")) picture += line + '\n';
    CHECK(picture == draw_svg<one_f_one_b>(2, 3));
  }
  TEST_CASE("a picture that cannot be written, is too large, or is of another schedule is refused") {
    const folder f;
    program_options o;
    o.draw_schedule = (f.path / "no" / "such" / "folder.svg").string();
    CHECK(has(refused(o), "cannot write picture of the schedule '" + o.draw_schedule));
    o.draw_schedule = (f.path / "schedule.svg").string();
    o.train.global_batch = 100'002;
    CHECK(has(refused(o), "a picture of 2 stages, 1 chunks and 100002 micro-batches has more than 100000 steps"));
    o.train.global_batch = 8;
    o.train.schedule = &value_of_schedule<forward_only>;
    CHECK(has(refused(o), "leave out trainer_options::schedule"));
    CHECK(!std::filesystem::exists(o.draw_schedule));
  }
  TEST_CASE("a dry run shows the tables and reads no data") {
    const folder f;
    string_sink log;
    program_options options = options_of(f);
    options.dry_run = true;
    options.data.files = {(f.path / "nowhere").string()};
    CHECK(run_program<tiny>(options, log) == 0);
    CHECK(place(log, "optimizer") > 0);
    CHECK(log.lines.back() == "dry run: nothing was trained");
    CHECK(log.statuses.empty());
  }
  TEST_CASE("one rank compares itself with nobody") {
    const folder f;
    string_sink log;
    CHECK(run_program<any_world>(options_of(f), log) == 0);
    CHECK(has(log.lines[0], "; 1 rank"));
    CHECK(place(log, "single rank") == -1);
  }
  TEST_CASE("the metrics file says what ran, then one line per step; bytes by axis are those of the step") {
    const folder f;
    silent_sink log;
    program_options options = options_of(f, 3);
    options.metrics = (f.path / "metrics.jsonl").string();
    options.commit = "abc1234";
    options.ranks = 8;
    options.evaluate_every = 2;
    run_program<tiny>(options, log);
    const std::vector<std::string> lines = f.lines("metrics.jsonl");
    REQUIRE(lines.size() == 4);
    CHECK(
        has(lines[0],
            R"({"run":"tiny","world":8,"attention":{"tp":2,"dp":2,"pp":2},"moe":{"ep":2,"edp":2,"pp":2},"precision":"fp32","version":")"));
    CHECK(has(lines[0], R"("commit":"abc1234")"));
    CHECK_FALSE(has(lines[0], "\"step\""));
    for (std::size_t s = 1; s <= 3; ++s) {
      CHECK(has(lines[s], sentence("{\"step\":", s, ",\"loss\":")));
      CHECK(has(lines[s], "\"tokens\":128,"));
      CHECK(has(lines[s], "\"expert_load\":[["));
      CHECK(has(lines[s], "\"eval_loss\":") == (s >= 2));
      for (const char* axis : {"\"tp\":", "\"ep\":", "\"pp\":", "\"edp\":", "\"cp x dp\":", "\"tp x cp x dp\":"})
        CHECK(has(lines[s], axis));
      CHECK(has(lines[s], "\"world\":2688"));  // 4 + 2 * (4 + 5) numbers on each of 8 ranks: 8 * 2 * 7 * 3 * 8
    }
  }
  TEST_CASE("whoever sets the stop flag ends the run after the current step, with a summary") {
    struct stopper : log_sink {
      std::atomic<int> stop{0};
      string_sink inner;
      void line(std::string_view text) override { inner.line(text); }
      void status(std::string_view text) override {
        inner.status(text);
        if (inner.statuses.size() == 5) stop = SIGTERM;  // while step 6 may already run
      }
    } log;
    const folder f;
    program_options options = options_of(f, 200);
    options.train.stop = &log.stop;
    options.metrics = (f.path / "metrics.jsonl").string();
    CHECK(run_program<tiny>(options, log) == 143);
    const std::size_t done = log.inner.statuses.size();
    CHECK(done >= 5);
    CHECK(done <= 8);
    CHECK(place(log.inner, sentence("stopped by SIGTERM after step ", done, " of 200; nothing was saved")) > 0);
    CHECK(place(log.inner, "training loss ") == int(log.inner.lines.size()) - 1);
    CHECK(f.lines("metrics.jsonl").size() == done + 1);
    CHECK(has(log.inner.statuses.back(), " | held-out "));
  }
  TEST_CASE("the smallest world of a run is what its folding needs") {
    CHECK(smallest_world<run_defaults::fold>() == 1);
    CHECK(smallest_world<tiny::fold>() == 4);
    CHECK(smallest_world<fixed::fold>() == 4);
    CHECK(smallest_world<folding<mesh<tp<2>, dp<dyn>>, mesh<ep<3>, edp<dyn>>>>() == 6);
    CHECK(smallest_world<folding<mesh<dp<dyn>>, mesh<ep<4>, etp<2>>>>() == 8);
  }
  TEST_CASE("what the MoE layers do is shown: first in words, then by step, and by layer in the metrics") {
    const folder f;
    string_sink log;
    program_options options = options_of(f, 3);
    options.metrics = (f.path / "metrics.jsonl").string();
    CHECK(run_program<dropping>(options, log) == 0);
    CHECK(place(log, "moe: all_gather, capacity 50%, full sequence, by position; balance losses: 0.02 sequence + 0.001 z; jitter 0.01") ==
          1);
    CHECK(has(log.statuses.back(), "x aux "));
    CHECK(has(log.statuses.back(), " drop "));
    const std::string line = f.lines("metrics.jsonl").back();
    for (const char* field : {"\"load_max_over_mean\":[", "\"dropped_share\":[0.", "\"balance_losses\":{\"sequence\":[0.0", ",\"z\":[0.0"})
      CHECK(has(line, field));
    CHECK_FALSE(has(line, "micro_batch"));
    string_sink dropless;
    CHECK(run_program<tiny>(options_of(f, 1), dropless) == 0);
    CHECK_FALSE(has(dropless.statuses.back(), "drop"));
    CHECK(has(dropless.statuses.back(), " aux "));
  }
  TEST_CASE("a run whose choices depend on the mapping is not held against a single rank, and says why") {
    const folder f;
    string_sink log;
    program_options options = options_of(f, 3);
    options.train.learning_rate = 0.02;
    CHECK(run_program<by_rank>(options, log) == 0);
    CHECK(place(log, "not compared with a single rank: its capacity or balance loss looks at the tokens of single ranks") > 0);
    const moe_facts running{{}, {.global_running = 0.1}}, part{{50}}, whole{{50, true}};
    CHECK(depends_on_mapping(running, 1, 2));
    CHECK_FALSE(depends_on_mapping(running, 4, 1));
    CHECK(depends_on_mapping(part, 2, 1));
    CHECK_FALSE(depends_on_mapping(part, 1, 4));
    CHECK_FALSE(depends_on_mapping(whole, 4, 4));
  }
  TEST_CASE("even routing gives every expert its share, and a perfectly even load costs exactly the coefficient") {
    const folder f;
    silent_sink log;
    program_options options = options_of(f, 2);
    options.metrics = (f.path / "metrics.jsonl").string();
    options.even_routing = true;
    CHECK(run_program<tiny>(options, log) == 0);
    for (const std::string& line : f.lines("metrics.jsonl")) {
      if (!has(line, "\"step\"")) continue;
      CHECK(has(line, "\"load_max_over_mean\":[1,1]"));
      const std::string losses = line.substr(line.find("\"micro_batch\":[") + 15);
      CHECK(std::strtod(losses.c_str(), nullptr) == doctest::Approx(0.01).epsilon(1e-6));
    }
  }
  TEST_CASE("the expert-load heatmap is drawn, and a path that cannot be written is refused before the first step") {
    const folder f;
    string_sink log;
    program_options options = options_of(f, 3);
    options.heatmap = (f.path / "load.svg").string();
    CHECK(run_program<tiny>(options, log) == 0);
    CHECK(place(log, "expert-load heatmap: " + options.heatmap) > 0);
    std::string svg;
    for (const std::string& line : f.lines("load.svg")) svg += line;
    CHECK(has(svg, "<svg"));
    CHECK(has(svg, "layer 1"));
    CHECK(has(svg, "at step"));
    options.heatmap = (f.path / "no" / "load.svg").string();
    CHECK(has(refused(options), "no/load.svg"));
  }
  TEST_CASE("a recorded routing is replayed in another mapping and with other weights, and then the router chooses again") {
    const folder f;
    silent_sink log;
    program_options options = options_of(f, 2);
    options.record_routing = (f.path / "first").string();
    CHECK(run_program<tiny>(options, log) == 0);
    program_options again = options_of(f, 3);
    again.train.seed = 99;  // other weights and other data
    again.record_routing = (f.path / "free").string();
    CHECK(run_program<any_world>(again, log) == 0);
    again.replay_routing = options.record_routing;
    again.record_routing = (f.path / "second").string();
    string_sink told;
    CHECK(run_program<any_world>(again, told) == 0);
    CHECK(place(told, "routing: 2 steps replayed from") > 0);
    const routing_trace first = read_routing(options.record_routing).trace, second = read_routing(again.record_routing).trace,
                        free = read_routing((f.path / "free").string()).trace;
    CHECK(std::equal(first.choices().begin(), first.choices().end(), second.choices().begin()));
    CHECK_FALSE(std::equal(first.choices().begin(), first.choices().end(), free.choices().begin()));
    const auto last = second.choices().subspan(first.choices().size());
    CHECK(std::all_of(last.begin(), last.end(), [](std::int32_t expert) { return expert >= 0; }));

    again.train.global_batch = 4;
    CHECK(has(refused<any_world>(again), "has global batch 8, this run 4; replay it in a run with the numbers it was recorded with"));
    again.replay_routing = (f.path / "nothing").string();
    CHECK(has(refused<any_world>(again), "nothing"));
  }
  TEST_CASE("what cannot run is refused with a sentence that says how to mend it") {
    const folder f;
    program_options options = options_of(f);
    options.train.global_batch = 7;
    options.ranks = 8;
    CHECK(has(refused(options),
              "the global batch must be a positive multiple of DP * micro-batch; change --global-batch or --micro-batch (given "
              "global_batch = 7, dp_times_micro_batch = 2)"));
    options = options_of(f);
    options.data.files = {f.file("short", 100)};
    CHECK(has(refused(options), "moefold: the data have 100 tokens, a batch of 8 sequences of 16 needs "));
    options.data.files = {(f.path / "nowhere").string()};
    CHECK(has(refused(options), "moefold: there is no file '"));
    options = options_of(f);
    options.ranks = 6;
    CHECK(has(refused(options), "start a multiple of that product, or change the extents (given world = 6, fixed_ranks = 4)"));
    CHECK(refused<fixed>(options) == "moefold: the mesh has 4 ranks and the world 6; start 4 ranks, or make the mesh's dp or edp dyn");
    CHECK(has(refused<few_tokens>(options_of(f)), "moefold: the data have token 120 and the model a vocabulary of 100"));
    options = options_of(f);
    options.metrics = (f.path / "no" / "metrics.jsonl").string();
    CHECK(has(refused(options), "moefold: cannot write metrics file '"));
  }
  TEST_CASE("what is to be continued is bytes, or numbers of tokens where the data are tokens, and is shown the same way") {
    CHECK(detail::tokens_of("a\xc3", true) == std::vector<std::int32_t>{97, 0xc3});
    CHECK(detail::tokens_of(" 5  17 ", false) == std::vector<std::int32_t>{5, 17});
    CHECK_THROWS_WITH_AS(detail::tokens_of("5 x7", false), doctest::Contains("'x7' is no token"), config_error);
    CHECK_THROWS_AS(detail::tokens_of("-5", false), config_error);
    const std::vector<std::int32_t> tokens{97, 10, 27, 200};
    CHECK(detail::text_of(tokens, true) == "a\n\\x1b\xc8");
    CHECK(detail::text_of(tokens, false) == "97 10 27 200");
  }
  TEST_CASE(
      "a text is continued by the same tokens in every mapping, by one that the vocabulary holds, and beyond the length of a sequence") {
    const folder f;
    program_options options;
    options.generate = "the quick brown";
    options.generate_tokens = 6;  // past the 16 tokens of a sequence
    string_sink one, many;
    CHECK(run_program<any_world>(options, one) == 0);
    CHECK(run_program<tiny>(options, many) == 0);
    CHECK(many.lines.back() == one.lines.back());
    CHECK(has(one.lines.back(), "the quick brown"));
    CHECK(place(one, "data: ") == -1);  // it needs none
    options.generate = "\xff";
    CHECK(has(refused<any_world>(options), "token 255 is not in the vocabulary of 128"));
  }
  TEST_CASE("evaluation looks at every sequence once, and at the last ones where they fill no batch; every mapping gives one number") {
    const folder f;
    program_options options = options_of(f);
    options.evaluate = true;
    string_sink one, many;
    CHECK(run_program<any_world>(options, one) == 0);
    options.ranks = 8;
    CHECK(run_program<tiny>(options, many) == 0);
    CHECK(has(one.lines.back(), "over 3984 tokens"));  // 249 sequences of 16
    CHECK(many.lines.back().substr(0, 12) == one.lines.back().substr(0, 12));
    CHECK(place(one, "249 sequences to evaluate") > 0);
    CHECK(one.statuses.empty());
  }
  TEST_CASE("options of files that contradict each other are refused") {
    const folder f;
    program_options options = options_of(f);
    options.load = options.resume = "somewhere";
    CHECK(has(refused(options), "give only one of --load, --upcycle and --resume"));
    options.resume = "";
    CHECK(has(refused(options), "built without model files"));
    options = options_of(f);
    options.save_every = 5;
    CHECK(has(refused(options), "--save DIR where"));
    options = options_of(f);
    options.train.steps = 0;
    CHECK(has(refused(options), "0 steps only loads and exports"));
    options = options_of(f);
    options.evaluate = true, options.generate = "x";
    CHECK(has(refused(options), "one of --evaluate and --generate"));
  }
}
