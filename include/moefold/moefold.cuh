#pragma once
// Everything in moefold.hpp and the CUDA twins that exist so far. Needs nvcc with -std=c++20 --expt-relaxed-constexpr; the CMake target
// moefold::cuda sets both.
#include <moefold/moefold.hpp>

#include <moefold/core/exec.cuh>
#include <moefold/core/memory.cuh>
#include <moefold/ops/activation.cuh>
#include <moefold/ops/blas.cuh>
#include <moefold/ops/gemm.cuh>
#include <moefold/ops/grouped_gemm.cuh>
