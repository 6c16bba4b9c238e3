// The one part of the program that trains: compiled by itself, since everything of a trainer takes a while.
#include "calibrate.hpp"

#include <moefold/train/calibrated_steps.hpp>

#include <iostream>

int calibrate(const std::string& path) {
  moefold::run_calibration(std::cout, path);
  return 0;
}
