#pragma once
// Everything in moefold.hpp and the CUDA twins that exist so far. Needs nvcc with -std=c++20 --expt-relaxed-constexpr; the CMake target
// moefold::cuda sets both.
#include <moefold/moefold.hpp>

#include <moefold/core/exec.cuh>
#include <moefold/core/memory.cuh>
#include <moefold/ops/activation.cuh>
#include <moefold/ops/capacity.cuh>
#include <moefold/ops/choice_rows.cuh>
#include <moefold/ops/jitter.cuh>
#include <moefold/ops/permute.cuh>
#include <moefold/ops/route.cuh>
#include <moefold/ops/row_copy.cuh>
#include <moefold/ops/top_k.cuh>
#include <moefold/ops/weighted_rows.cuh>
