// How fast mappings are costed and searched. Gates: 10^5 mappings per second on one core; the space of 1,024 GPUs within a second.
#include <moefold/model/mixtral.hpp>
#include <moefold/plan/search.hpp>

#include "../support/paired.hpp"

#include <ctime>

using namespace moefold;

namespace {

plan_job job(extent_t gpus) {
  plan_job j;
  j.model = mixtral_8x22b, j.gpus = gpus, j.sequence = 4096, j.global_batch = gpus > 256 ? gpus : 256;
  j.facts.tokens = {.percent = 100, .padded = true};
  return j;
}

void mappings(benchmark::State& state) {
  const plan_job j = job(1024);
  std::vector<plan_mapping> all;
  for_each_mapping(
      j, search_options{}.fixed, [&](const plan_mapping& m) { all.push_back(m); }, [](const plan_mapping&, const std::string&) {});
  double sum = 0;
  std::size_t next = 0;
  const std::clock_t start = std::clock();
  for (auto _ : state) {
    sum += predict<mixed_bf16>(j, dgx_h100, all[next]).step_seconds;
    next = next + 1 == all.size() ? 0 : next + 1;
  }
  benchmark::DoNotOptimize(sum);
  const double rate = double(state.iterations()) * CLOCKS_PER_SEC / double(std::max<std::clock_t>(1, std::clock() - start));
  state.counters["mappings_per_second"] = rate;
  bench::fail_unless(state.iterations() < 10000 || rate >= 1e5,
                     sentence("a core costs ", rate, " mappings per second, demanded are 100000"), 1);
}
BENCHMARK(mappings)->MinTime(1);

void whole_search(benchmark::State& state) {
  const plan_job j = job(state.range(0));
  search_result r;
  for (auto _ : state) r = search<mixed_bf16>(j, dgx_h100);
  state.counters["legal"] = double(r.legal);
  state.counters["fitting"] = double(r.fitting);
  bench::fail_unless(r.seconds <= 1, sentence("the search over ", j.gpus, " GPUs took ", r.seconds, " s, allowed is 1"), 1);
}
BENCHMARK(whole_search)->Arg(128)->Arg(1024)->Unit(benchmark::kMillisecond);

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  return bench::run_all();
}
