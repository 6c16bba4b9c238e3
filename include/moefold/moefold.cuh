#pragma once
// Everything in moefold.hpp and its CUDA twins. Needs nvcc with -std=c++20 --expt-relaxed-constexpr; the CMake target moefold::cuda sets both.
// comm/nccl.cuh is included by name.
#include <moefold/moefold.hpp>

#include <moefold/core/exec.cuh>
#include <moefold/core/fault.cuh>
#include <moefold/core/launch.cuh>
#include <moefold/core/memory.cuh>
#include <moefold/core/mma.cuh>
#include <moefold/core/pack.cuh>
#include <moefold/core/stream.cuh>
#include <moefold/core/warp.cuh>
#include <moefold/ops/activation.cuh>
#include <moefold/ops/adamw.cuh>
#include <moefold/ops/balance.cuh>
#include <moefold/ops/blas.cuh>
#include <moefold/ops/choice_rows.cuh>
#include <moefold/ops/elementwise.cuh>
#include <moefold/ops/exchange_order.cuh>
#include <moefold/ops/flash.cuh>
#include <moefold/ops/flash_call.cuh>
#include <moefold/ops/flash_mma.cuh>
#include <moefold/ops/flash_rows.cuh>
#include <moefold/ops/gemm.cuh>
#include <moefold/ops/grouped_gemm.cuh>
#include <moefold/ops/head_exchange.cuh>
#include <moefold/ops/ids.cuh>
#include <moefold/ops/norm.cuh>
#include <moefold/ops/numbered_choices.cuh>
#include <moefold/ops/permute.cuh>
#include <moefold/ops/pick.cuh>
#include <moefold/ops/row_copy.cuh>
#include <moefold/ops/rows.cuh>
#include <moefold/ops/total.cuh>
#include <moefold/ops/weighted_rows.cuh>
#include <moefold/optim/finite.cuh>
#include <moefold/tensor/copy.cuh>
