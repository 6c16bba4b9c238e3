#pragma once
// Everything in moefold.hpp and the CUDA twins that exist so far. Needs nvcc with -std=c++20 --expt-relaxed-constexpr; the CMake target
// moefold::cuda sets both.
#include <moefold/moefold.hpp>

#include <moefold/comm/chaos.cuh>
#include <moefold/comm/device_group.cuh>
#include <moefold/comm/device_room.cuh>
#include <moefold/comm/self.cuh>
#include <moefold/comm/thread.cuh>
#include <moefold/core/exec.cuh>
#include <moefold/core/memory.cuh>
#include <moefold/ops/activation.cuh>
