// Measures the devices of this machine and writes what the planner takes: plan --cluster FILE.
//
//   bench_plan_calibrate_cuda [FILE.json]     prints every measurement, the products beside the planner's formula, and the cluster
#include <moefold/train/calibrate.cuh>

#include <cstdio>
#include <cstring>

int main(int argc, char** argv) try {
  using namespace moefold;
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("skipped: no GPU\n");
    return 77;
  }
  std::string path;
  for (int i = 1; i < argc; ++i)
    if (std::strncmp(argv[i], "--", 2) != 0) path = argv[i];
  calibration_options options = device_calibration();
#if defined(MOEFOLD_EMULATED)
  options.product = 32, options.stream = 1 << 12, options.sequence = 16, options.heads = 2, options.width = 16;
  options.window = 1e-4, options.repeats = 1, options.ranks = 2, options.largest_message = 4096;
#endif
  const calibration c = calibrate_devices(options, [](const std::string& line) {
    std::printf("%s\n", line.c_str());
    std::fflush(stdout);
  });
  const std::string text = write_cluster(c.cluster.spec(), c.cluster.note());
  std::printf("\n%s\n%s\nmeasured in %.0f s\n%s", table_of_products(c).text().c_str(), describe(c).c_str(), c.seconds, text.c_str());
  if (!path.empty()) save_cluster(path, c.cluster.spec(), c.cluster.note());
} catch (const moefold::error& wrong) {
  std::fprintf(stderr, "%s\n", wrong.what());
  return 1;
}
