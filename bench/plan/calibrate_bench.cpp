// Measures this host and asks whether the planner can be believed on it: products beside the formula, and steps of the default model, predicted and measured,
// on 1, 2 and 4 ranks. Numbers of one run each: bench/results/2026-11-26-calibrate.md.
//
//   bench_plan_calibrate [FILE.json]     also writes the cluster
#include <moefold/train/calibrated_steps.hpp>

#include <cstring>
#include <iostream>

int main(int argc, char** argv) try {
  std::string path;
  for (int i = 1; i < argc; ++i)
    if (std::strncmp(argv[i], "--", 2) != 0) path = argv[i];
  moefold::run_calibration(std::cout, path);
} catch (const moefold::error& wrong) {
  std::cerr << wrong.what() << '\n';
  return 1;
}
