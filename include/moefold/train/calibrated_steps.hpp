#pragma once
// What `plan --calibrate` does: measures this machine (train/calibrate.hpp), writes it as a cluster file, and then asks whether the planner can be believed
// here: some steps of the default model, ranks as threads, each beside what the planner predicts with the constants that were just measured.
//
//   ranks  mapping               predicted ms   measured ms   ratio
//   2      tp 2, ... ep 2 ...          41.0          44.2      0.93
// Ranks that share cores disturb each other, and whatever else runs there disturbs all of them: on a busy machine both columns are rough.
#include <moefold/plan/cost.hpp>
#include <moefold/train/calibrate.hpp>
#include <moefold/train/trainer.hpp>

#include <ostream>

namespace moefold {

/// A step of the default model on this machine, seconds.
struct compared_step {
  plan_mapping mapping;
  prediction predicted;
  double measured = 0;
  double ratio() const { return predicted.step_seconds / measured; }
};

namespace detail {

/// The default model on this host, as the planner is asked about it.
inline plan_job calibrated_job(extent_t ranks) {
  plan_job job;
  job.gpus = ranks;
  job.sequence = run_defaults::sequence;
  job.global_batch = trainer_options{}.global_batch;
  job.facts = facts_of<run_defaults::moe>();
  job.bucket = trainer_options{}.bucket;
  return job;
}
/// Three ways to lay it out, where there are as many: data parallel, tensor or context parallel, pipelined.
inline std::vector<plan_mapping> calibrated_mappings(extent_t ranks) {
  if (ranks == 1) return {plan_mapping{}};
  std::vector<plan_mapping> all(3);
  all[0].dp = ranks, all[0].ep = ranks;
  all[1].tp = 2, all[1].cp = ranks / 2, all[1].ep = ranks;
  all[2].pp = 2, all[2].dp = ranks / 2, all[2].ep = ranks / 2;
  return all;
}

/// Seconds of the fastest of `steps` steps behind one that warms up, on the slowest rank.
inline double measured_step(const plan_job& job, const plan_mapping& m, int steps) {
  using policies = policies_of<run_defaults>;
  std::string text;
  const random_stream draw(3, "calibrate");
  for (std::uint64_t i = 0; text.size() < 100'000; ++i) text += "the quick brown fox jumps over the lazy dog "[draw.bits(i) % 44];
  const dataset data(token_stream::from_bytes(text), job.sequence, 1);
  double best = 0;
  run_threads(int(m.gpus()), [&](thread_comm& world) {
    const bool first = world.rank() == 0;
    trainer_options options;
    options.global_batch = job.global_batch, options.micro_batch = m.micro_batch;
    basic_trainer<policies, thread_comm> trainer(std::move(world), job.model, job.sequence, folding_of(job, m), options, data);
    for (int i = -1; i < steps; ++i) {
      trainer.world().barrier(trainer.exec()).wait(trainer.exec());
      const auto begin = calibration_clock::now();
      trainer.step();
      trainer.world().barrier(trainer.exec()).wait(trainer.exec());
      const double seconds = std::chrono::duration<double>(calibration_clock::now() - begin).count();
      if (first && i >= 0) best = i == 0 ? seconds : std::min(best, seconds);
    }
  });
  return best;
}

}  // namespace detail

/// Predicts and measures a job's mappings with the constants of `cluster`, which was measured with as many ranks. The job's policies are the defaults.
inline std::vector<compared_step> compare_steps(const cluster_spec& cluster, const plan_job& job, const std::vector<plan_mapping>& mappings,
                                                int steps = 3) {
  std::vector<compared_step> all;
  for (const plan_mapping& m : mappings) {
    check(job, m);
    all.push_back({m, predict<run_defaults::precision>(job, cluster, m), detail::measured_step(job, m, steps)});
  }
  return all;
}

inline text_table table_of(const std::vector<compared_step>& steps) {
  text_table table({"mapping", "predicted ms", "measured ms", "ratio"});
  for (const compared_step& s : steps)
    table.row({describe(s.mapping), detail::printed("%.1f", 1e3 * s.predicted.step_seconds), detail::printed("%.1f", 1e3 * s.measured),
               detail::printed("%.2f", s.ratio())});
  return table;
}

/// Measures the host, tells `out` what it finds as it goes, and writes the cluster to `path` unless that is empty. Then compares predicted and measured steps on
/// 1, 2 and, where there are at least two cores, 4 ranks. Returns what it wrote.
inline stored_cluster run_calibration(std::ostream& out, const std::string& path, const calibration_options& options = {}) {
  const calibration_progress say = [&](const std::string& line) { out << "  " << line << std::endl; };
  const int cores = std::max(1, int(std::thread::hardware_concurrency())), ranks = calibration_ranks(options);
  out << "measuring this host with " << ranks << " ranks as threads on " << cores << (cores == 1 ? " core" : " cores") << std::endl;
  const calibration c = calibrate(options, say);
  out << '\n' << table_of_products(c).text() << '\n' << describe(c) << detail::printed("measured in %.0f s\n", c.seconds);
  if (!path.empty()) {
    save_cluster(path, c.cluster.spec(), c.cluster.note());
    out << "wrote " << path << "; plan with it: --cluster " << path << '\n';
  }
  out << "\npredicted and measured steps of the default model (fastest of 3), each number of ranks measured by itself first:" << std::endl;
  std::vector<compared_step> all;
  for (const int n : {1, 2, 4}) {
    if (n > 2 && n > 2 * cores) continue;
    calibration_options own = options;
    own.ranks = n, own.every_group = false;
    const calibration here = n == ranks ? c : calibrate(own);
    for (compared_step& s : compare_steps(here.cluster.spec(), detail::calibrated_job(n), detail::calibrated_mappings(n)))
      all.push_back(std::move(s));
    out << "  " << n << (n == 1 ? " rank" : " ranks") << " done" << std::endl;
  }
  out << table_of(all).text();
  out << "ratio: predicted over measured. Ranks share " << cores << (cores == 1 ? " core" : " cores")
      << " and whatever else runs on them: expect it to be rough.\n";
  return c.cluster;
}

}  // namespace moefold
