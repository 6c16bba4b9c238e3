#pragma once
// A run is one struct: derive from run_defaults and say only what differs. Its member types choose code, its constants choose numbers.
//
//   struct my_run : moefold::run_defaults {
//     using fold = folding<mesh<tp<2>, cp<2>, dp<dyn>, pp<2>>, mesh<etp<1>, ep<4>, edp<dyn>, pp<2>>>;
//   };
#include <moefold/attention/policy.hpp>
#include <moefold/core/exec.hpp>
#include <moefold/core/model_shape.hpp>
#include <moefold/core/precision.hpp>
#include <moefold/core/recompute.hpp>
#include <moefold/inventory/legality.hpp>
#include <moefold/mesh/folding.hpp>
#include <moefold/moe/policy.hpp>
#include <moefold/optim/adamw.hpp>
#include <moefold/schedule/one_f_one_b.hpp>

namespace moefold {

/// Without a balance loss the routing of a run collapses onto few experts.
struct balanced_moe : moe_defaults {
  static constexpr balance_losses balance{.micro_batch = 1e-2};
};

struct run_defaults {
  static constexpr model_shape model{};
  static constexpr extent_t sequence = 256;  // tokens
  using fold = folding<mesh<dp<dyn>>, mesh<edp<dyn>>>;
  using precision = fp32;               // on the host
  using device_precision = mixed_bf16;  // on a GPU
  using context = cp_all_gather;
  using moe = balanced_moe;
  using schedule = one_f_one_b;
  using optimizer = adamw;
  static constexpr recompute_rule recompute{};  // none; recompute_full; selective<...>
  static constexpr layer_split layers{};        // even; layer_counts({...}); embedding or head weighing as a layer
};

/// The folding of a run in a world of that many ranks, its layers shared out.
template <class Run>
constexpr folding_extents folding_of(extent_t world) {
  folding_extents fold = resolve<typename Run::fold>(world);
  fold.layers = Run::layers;
  fold.layers.chunks = Run::schedule::chunks;
  return fold;
}

/// The types of a run without its fold and numbers: runs that agree in these share one instantiation of everything below.
template <class Precision, class Context, class Moe, class Schedule, class Optimizer>
struct policies {
  using precision = Precision;
  using context = Context;
  using moe = Moe;
  using schedule = Schedule;
  using optimizer = Optimizer;
};
/// The precision of a run on an exec: the host's, or where Exec works on a device's memory the device's.
template <class Run, class Exec>
using precision_on =
    std::conditional_t<std::is_same_v<typename Exec::memory, host_memory>, typename Run::precision, typename Run::device_precision>;
template <class Run, class Exec = host_exec>
using policies_of =
    policies<precision_on<Run, Exec>, typename Run::context, typename Run::moe, typename Run::schedule, typename Run::optimizer>;

}  // namespace moefold
