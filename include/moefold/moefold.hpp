#pragma once
// All host headers of moefold: types and rules, ranks as threads, operations, layers, model, optimizer and trainer. Needs a C++20 compiler and
// threads, nothing else; a CBLAS is used where MOEFOLD_WITH_CBLAS is defined. CUDA users include moefold/moefold.cuh instead. By name: checkpoint/ and what
// reads model files, what whole programs are made of (train/program.hpp), fault injection (comm/chaos.hpp), MPI and NCCL.
#include <moefold/core/batch_place.hpp>
#include <moefold/core/bulk_copy.hpp>
#include <moefold/core/config.hpp>
#include <moefold/core/context_facts.hpp>
#include <moefold/core/error.hpp>
#include <moefold/core/exec.hpp>
#include <moefold/core/file_error.hpp>
#include <moefold/core/fp8.hpp>
#include <moefold/core/fp8_precision.hpp>
#include <moefold/core/layer_split.hpp>
#include <moefold/core/memory.hpp>
#include <moefold/core/memory_ledger.hpp>
#include <moefold/core/model_shape.hpp>
#include <moefold/core/moe_facts.hpp>
#include <moefold/core/mutant.hpp>
#include <moefold/core/precision.hpp>
#include <moefold/core/recompute.hpp>
#include <moefold/core/replace_file.hpp>
#include <moefold/core/rng.hpp>
#include <moefold/core/scalar.hpp>
#include <moefold/core/scaling.hpp>
#include <moefold/core/sequence_part.hpp>
#include <moefold/core/shape.hpp>
#include <moefold/core/traffic_rule.hpp>
#include <moefold/core/version.hpp>

#include <moefold/mesh/axis.hpp>
#include <moefold/mesh/coordinate.hpp>
#include <moefold/mesh/describe.hpp>
#include <moefold/mesh/extents.hpp>
#include <moefold/mesh/folding.hpp>
#include <moefold/mesh/group.hpp>
#include <moefold/mesh/mesh.hpp>
#include <moefold/mesh/placement.hpp>
#include <moefold/mesh/slice.hpp>

#include <moefold/tensor/arena.hpp>
#include <moefold/tensor/copy.hpp>
#include <moefold/tensor/filled.hpp>
#include <moefold/tensor/read_back.hpp>
#include <moefold/tensor/tensor.hpp>
#include <moefold/tensor/view.hpp>

#include <moefold/comm/bootstrap.hpp>
#include <moefold/comm/communicator.hpp>
#include <moefold/comm/failure.hpp>
#include <moefold/comm/groups.hpp>
#include <moefold/comm/parking.hpp>
#include <moefold/comm/recording.hpp>
#include <moefold/comm/self.hpp>
#include <moefold/comm/signature.hpp>
#include <moefold/comm/thread.hpp>
#include <moefold/comm/thread_group.hpp>
#include <moefold/comm/thread_helper.hpp>
#include <moefold/comm/thread_world.hpp>

#include <moefold/ops/activation.hpp>
#include <moefold/ops/adamw.hpp>
#include <moefold/ops/balance.hpp>
#include <moefold/ops/bias.hpp>
#include <moefold/ops/capacity.hpp>
#include <moefold/ops/choice_rows.hpp>
#include <moefold/ops/cross_entropy.hpp>
#include <moefold/ops/elementwise.hpp>
#include <moefold/ops/embedding.hpp>
#include <moefold/ops/exchange_order.hpp>
#include <moefold/ops/exp.hpp>
#include <moefold/ops/flash.hpp>
#include <moefold/ops/gate.hpp>
#include <moefold/ops/gemm.hpp>
#include <moefold/ops/grouped_gemm.hpp>
#include <moefold/ops/head_exchange.hpp>
#include <moefold/ops/ids.hpp>
#include <moefold/ops/jitter.hpp>
#include <moefold/ops/grouped_tiles.hpp>
#include <moefold/ops/norm.hpp>
#include <moefold/ops/numbered_choices.hpp>
#include <moefold/ops/permute.hpp>
#include <moefold/ops/pick.hpp>
#include <moefold/ops/quantise.hpp>
#include <moefold/ops/rope.hpp>
#include <moefold/ops/route.hpp>
#include <moefold/ops/row_copy.hpp>
#include <moefold/ops/row_tiles.hpp>
#include <moefold/ops/rows.hpp>
#include <moefold/ops/softmax.hpp>
#include <moefold/ops/top_k.hpp>
#include <moefold/ops/total.hpp>
#include <moefold/ops/weighted_rows.hpp>

#include <moefold/inventory/activations.hpp>
#include <moefold/inventory/legality.hpp>
#include <moefold/inventory/parameters.hpp>
#include <moefold/inventory/scaled_products.hpp>
#include <moefold/inventory/stages.hpp>
#include <moefold/inventory/traffic.hpp>

#include <moefold/schedule/check.hpp>
#include <moefold/schedule/forward_only.hpp>
#include <moefold/schedule/gpipe.hpp>
#include <moefold/schedule/interleaved.hpp>
#include <moefold/schedule/one_f_one_b.hpp>
#include <moefold/schedule/step.hpp>
#include <moefold/schedule/zero_bubble.hpp>

#include <moefold/layers/deferred.hpp>
#include <moefold/layers/embedding.hpp>
#include <moefold/layers/linear.hpp>
#include <moefold/layers/loss.hpp>
#include <moefold/layers/mlp.hpp>
#include <moefold/layers/norm.hpp>
#include <moefold/layers/parameter.hpp>
#include <moefold/layers/parameter_store.hpp>
#include <moefold/layers/scaled_product.hpp>
#include <moefold/layers/sequence.hpp>

#include <moefold/attention/attention.hpp>
#include <moefold/attention/cp_all_gather.hpp>
#include <moefold/attention/cp_all_to_all.hpp>
#include <moefold/attention/cp_ring.hpp>
#include <moefold/attention/policy.hpp>
#include <moefold/attention/sequence_map.hpp>

#include <moefold/moe/all_gather.hpp>
#include <moefold/moe/all_to_all.hpp>
#include <moefold/moe/balance.hpp>
#include <moefold/moe/dispatcher.hpp>
#include <moefold/moe/experts.hpp>
#include <moefold/moe/groups.hpp>
#include <moefold/moe/moe.hpp>
#include <moefold/moe/policy.hpp>
#include <moefold/moe/router.hpp>
#include <moefold/moe/routing.hpp>
#include <moefold/moe/row_fetch.hpp>
#include <moefold/moe/sequential_experts.hpp>
#include <moefold/moe/tokens.hpp>

#include <moefold/model/block.hpp>
#include <moefold/model/deepseek.hpp>
#include <moefold/model/llama.hpp>
#include <moefold/model/mixtral.hpp>
#include <moefold/model/qwen.hpp>
#include <moefold/model/stage_events.hpp>
#include <moefold/model/transformer.hpp>

#include <moefold/pipeline/runner.hpp>

#include <moefold/optim/adamw.hpp>
#include <moefold/optim/clip.hpp>
#include <moefold/optim/distributed.hpp>
#include <moefold/optim/finite.hpp>
#include <moefold/optim/rate.hpp>

#include <moefold/train/batch_loader.hpp>
#include <moefold/train/data.hpp>
#include <moefold/train/options.hpp>
#include <moefold/train/ranks.hpp>
#include <moefold/train/run.hpp>
#include <moefold/train/state.hpp>
#include <moefold/train/token_blend.hpp>
#include <moefold/train/token_sequences.hpp>
#include <moefold/train/token_source.hpp>
#include <moefold/train/trainer.hpp>
