#pragma once
// The trainer of a rank on a device: train/trainer.hpp with the CUDA twin of every operation that its layers and optimizer call. Nothing is written twice:
// the exec chooses.
//
//   basic_trainer<Policies, device_thread_comm, cuda_exec> trainer(std::move(world), model, sequence, fold, options, data);      options.device
//   trainer<my_run, device_self_comm, cuda_exec> one(device_self_comm(), options, data);
// Each rank makes it on its own thread, and calls it there.
#include <moefold/ops/activation.cuh>
#include <moefold/ops/adamw.cuh>
#include <moefold/ops/balance.cuh>
#include <moefold/ops/bias.cuh>
#include <moefold/ops/capacity.cuh>
#include <moefold/ops/choice_rows.cuh>
#include <moefold/ops/cross_entropy.cuh>
#include <moefold/ops/elementwise.cuh>
#include <moefold/ops/embedding.cuh>
#include <moefold/ops/exchange_order.cuh>
#include <moefold/ops/flash.cuh>
#include <moefold/ops/gate.cuh>
#include <moefold/ops/gemm.cuh>
#include <moefold/ops/grouped_gemm.cuh>
#include <moefold/ops/head_exchange.cuh>
#include <moefold/ops/ids.cuh>
#include <moefold/ops/jitter.cuh>
#include <moefold/ops/norm.cuh>
#include <moefold/ops/numbered_choices.cuh>
#include <moefold/ops/permute.cuh>
#include <moefold/ops/pick.cuh>
#include <moefold/ops/rope.cuh>
#include <moefold/ops/route.cuh>
#include <moefold/ops/row_copy.cuh>
#include <moefold/ops/total.cuh>
#include <moefold/ops/weighted_rows.cuh>
#include <moefold/optim/finite.cuh>
#include <moefold/tensor/copy.cuh>
#include <moefold/train/trainer.hpp>
