// Loading a published model on 8 thread ranks beside a plain copy of the same files into as much memory: how fast, and what is the most memory taken at once.
// Each run is a process of its own, so that its peak is its own; the files lie in the page cache where they fit. MOEFOLD_LOAD_MB: their size (1024).
//
//   ours   8 ranks: experts over ep 4 and etp 2, whose down projections are cut within rows, attention over rows
//   twin   8 threads: pread an eighth of the bytes each, 1 MiB at a time
//   gates  seconds of the twin / ours >= 0.7, by the clock (that of the processors is shown beside it: a busy machine changes it less); peak <= 1.2 of the parameters
#include <moefold/checkpoint/posix_storage.hpp>
#include <moefold/checkpoint/published_writer.hpp>

#include "../support/paired.hpp"

#include <filesystem>
#include <memory>

#include <sys/resource.h>
#include <sys/wait.h>

namespace {

using namespace moefold;

constexpr extent_t hidden = 2048, ffn = 3584, experts = 8, ranks = 8;

/// One tensor of ours: what a rank owns of it, and which published tensors it is made of.
struct parameter {
  shape extent;
  std::vector<published_segment> segments;
  box (*box_of)(const shape&, extent_t rank);

  tensor_piece piece(extent_t rank) const {
    const box where = box_of(extent, rank);
    return {where, {0, where.size()}, extent.size()};
  }
};
box rows_over_all(const shape& s, extent_t rank) { return {s, {rank * (s[0] / ranks)}, {s[0] / ranks, s[1]}}; }
box experts_and_rows(const shape& s, extent_t rank) { return {s, {rank / 2 * 2, rank % 2 * (s[1] / 2)}, {2, s[1] / 2, s[2]}}; }
box experts_and_columns(const shape& s, extent_t rank) { return {s, {rank / 2 * 2, 0, rank % 2 * (s[2] / 2)}, {2, s[1], s[2] / 2}}; }

std::vector<parameter> model_of(extent_t layers) {
  std::vector<parameter> all;
  for (extent_t l = 0; l < layers; ++l) {
    for (const char* name : {"q", "o"})
      all.push_back({{hidden, hidden}, {{sentence(l, ".", name), 0, 0, hidden * hidden, {hidden, hidden}}}, rows_over_all});
    for (const char* name : {"gate", "up", "down"}) {
      const shape one = name[0] == 'd' ? shape{hidden, ffn} : shape{ffn, hidden};
      parameter p{{experts, one[0], one[1]}, {}, name[0] == 'd' ? experts_and_columns : experts_and_rows};
      for (extent_t e = 0; e < experts; ++e) p.segments.push_back({sentence(l, ".", e, ".", name), 0, e * one.size(), one.size(), one});
      all.push_back(p);
    }
  }
  return all;
}

/// Writes the model; returns the files' paths.
std::vector<std::string> write_model(const std::string& folder, const std::vector<parameter>& model) {
  std::vector<tensor_to_store> plan;
  for (const parameter& p : model)
    for (const published_segment& s : p.segments)
      plan.push_back({s.tensor, file_dtype::bf16, {std::uint64_t(s.needed[0]), std::uint64_t(s.needed[1])}});
  published_writer out(disk(), folder, plan, 2'000'000'000);
  out.create();
  std::vector<std::uint16_t> values;
  for (const parameter& p : model) {
    values.resize(std::size_t(p.extent.size()));
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = std::uint16_t(0x3f00 + i % 251);
    out.write({{p.extent, {}, p.extent}, {0, p.extent.size()}, p.extent.size()}, p.segments, dtype::bf16, std::as_bytes(std::span(values)));
  }
  out.finish();
  std::vector<std::string> paths;
  for (const std::string& name : out.file_names()) paths.push_back(folder + "/" + name);
  return paths;
}

struct memory {  // untouched until it is written, as the parameters of a model are
  explicit memory(std::size_t size) : bytes(new std::byte[size]), span(bytes.get(), size) {}
  std::unique_ptr<std::byte[]> bytes;
  std::span<std::byte> span;
};

void read_model(const std::string& folder, const std::vector<parameter>& model, thread_comm& world) {
  const published_reader from(disk(), folder);
  std::size_t size = 0;
  for (const parameter& p : model) size += std::size_t(p.piece(world.rank()).range.size()) * 2;
  memory to(size);
  std::size_t at = 0;
  for (const parameter& p : model) {
    const tensor_piece piece = p.piece(world.rank());
    const std::size_t bytes = std::size_t(piece.range.size()) * 2;
    from.read(piece, p.segments, dtype::bf16, to.span.subspan(at, bytes));
    at += bytes;
  }
  const auto first = load<std::uint16_t>(std::span<const std::byte>(to.span), 0);
  require(first >= 0x3f00 && first < 0x3f00 + 251, "moefold: the benchmark read ", first);
  host_context context;
  world.barrier(host_exec(context));  // all are there at once
}

void copy_files(const std::vector<std::string>& paths, thread_comm& world) {
  std::vector<std::unique_ptr<storage_file>> files;
  std::uint64_t all = 0;
  for (const std::string& path : paths) {
    files.push_back(disk().open(path));
    all += files.back()->size();
  }
  const std::uint64_t first = all / ranks * std::uint64_t(world.rank()), last = world.rank() + 1 == ranks ? all : first + all / ranks;
  memory to(std::size_t(last - first));
  std::uint64_t before = 0;  // bytes of the files before this one
  for (const auto& file : files) {
    const std::uint64_t size = file->size();
    for (std::uint64_t at = std::max(first, before); at < std::min(last, before + size);) {
      const std::uint64_t n = std::min({std::uint64_t(1) << 20, last - at, before + size - at});
      file->read(at - before, to.span.subspan(std::size_t(at - first), std::size_t(n)));
      at += n;
    }
    before += size;
  }
  host_context context;
  world.barrier(host_exec(context));
}

struct cost {
  double seconds = 0, processor = 0;  // by the clock; of all processors together
  double peak = 0;                    // bytes
};
/// f(world) on all ranks in a process of its own.
template <class F>
cost cost_of(F&& f) {
  int ends[2];
  require(pipe(ends) == 0, "moefold: no pipe");
  const pid_t child = fork();
  require(child >= 0, "moefold: no second process");
  if (child == 0) {
    double seconds = 0;
    try {
      const auto begin = std::chrono::steady_clock::now();
      run_threads(int(ranks), f);
      seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    } catch (const std::exception& e) {
      std::fprintf(stderr, "%s\n", e.what());
    }
    _exit(write(ends[1], &seconds, sizeof seconds) == sizeof seconds && seconds > 0 ? 0 : 1);
  }
  cost result;
  int status = 0;
  rusage used{};
  const bool told = read(ends[0], &result.seconds, sizeof result.seconds) == sizeof result.seconds;
  close(ends[0]), close(ends[1]);
  require(wait4(child, &status, 0, &used) == child && told && status == 0, "moefold: a run of the benchmark failed");
  result.peak = double(used.ru_maxrss) * 1024;
  for (const timeval& t : {used.ru_utime, used.ru_stime}) result.processor += double(t.tv_sec) + 1e-6 * double(t.tv_usec);
  return result;
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  const char* const asked = std::getenv("MOEFOLD_LOAD_MB");
  const double megabytes = asked ? std::atof(asked) : 1024;
  const double layer = 2.0 * double(2 * hidden * hidden + 3 * experts * hidden * ffn);
  const std::vector<parameter> model = model_of(std::max(extent_t{1}, extent_t(megabytes * 1e6 / layer + 0.5)));
  double parameters = 0;
  for (const parameter& p : model) parameters += 2.0 * double(p.extent.size());

  std::string folder = (std::filesystem::temp_directory_path() / "moefold_load_XXXXXX").string();
  if (!mkdtemp(folder.data())) return 2;
  benchmark::RegisterBenchmark(
      "load/bf16_8_ranks",
      [&](benchmark::State& state) {
        const std::vector<std::string> paths = write_model(folder + "/model", model);
        const auto ours = [&](thread_comm& world) { read_model(folder + "/model", model, world); };
        const auto twin = [&](thread_comm& world) { copy_files(paths, world); };
        cost_of(twin);  // the files are in the cache, or as much of them as fits
        bench::paired_times times, processor;
        double peak = 0;
        for (auto _ : state) {
          const cost a = cost_of(ours), b = cost_of(twin);
          state.SetIterationTime(a.seconds);
          times.ours.push_back(a.seconds), times.twin.push_back(b.seconds);
          processor.ours.push_back(a.processor), processor.twin.push_back(b.processor);
          peak = std::max(peak, a.peak);
        }
        state.counters["ratio"] = times.ratio();
        state.counters["processor_ratio"] = processor.ratio();  // nearly the same on a busy machine
        state.counters["processor_s"] = bench::median(processor.ours);
        state.counters["peak"] = peak / parameters;
        state.counters["GB"] = parameters / 1e9;
        state.counters["GB_per_s"] = parameters / 1e9 / bench::median(times.ours);
        state.counters["twin_GB_per_s"] = parameters / 1e9 / bench::median(times.twin);
        const double reached = times.ratio();
        bench::fail_unless(reached >= 0.7, sentence("loading reaches ", reached, " of a plain copy, needed is 0.7"), 2);
        bench::fail_unless(peak <= 1.2 * parameters,
                           sentence("loading takes ", peak / parameters, " of the parameters at its peak, allowed is 1.2"), 1);
      })
      ->UseManualTime()
      ->Iterations(5)
      ->Unit(benchmark::kMillisecond);
  int failed = 2;
  try {
    failed = bench::run_all();
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
  }
  std::filesystem::remove_all(folder);
  return failed;
}
