// clang-format off
#include <moefold/comm/self.hpp>
#include <moefold/train/trainer.hpp>
using namespace moefold;

struct run : run_defaults {
// fails MODEL_DOES_NOT_FIT: the attention heads must be a multiple of TP; choose a TP that divides them
#if defined(MODEL_DOES_NOT_FIT)
  using fold = folding<mesh<tp<3>>, mesh<edp<3>>>;
// fails MESHES_DO_NOT_FOLD: TP\*CP\*DP\*PP must equal ETP\*EP\*EDP\*PP; change edp, or write edp<dyn>
#elif defined(MESHES_DO_NOT_FOLD)
  using fold = folding<mesh<tp<2>, cp<2>>, mesh<ep<2>>>;
// fails WHATEVER_THE_WORLD: the expert ffn width must be a multiple of ETP
#elif defined(WHATEVER_THE_WORLD)
  using fold = folding<mesh<dp<dyn>>, mesh<etp<5>, edp<dyn>>>;    // whatever the world
// fails MODEL_CONTRADICTS_ITSELF: heads must be a multiple of kv_heads
#elif defined(MODEL_CONTRADICTS_ITSELF)
  static constexpr model_shape model{.heads = 8, .kv_heads = 3};
// fails TOO_MANY_CHOICES: top_k must lie between 1 and experts
#elif defined(TOO_MANY_CHOICES)
  static constexpr model_shape model{.experts = 8, .top_k = 9};
#else
  using fold = folding<mesh<tp<2>, cp<2>, dp<dyn>, pp<2>>, mesh<etp<1>, ep<4>, edp<dyn>, pp<2>>>;  // the control: this one compiles
#endif
};
template class moefold::trainer<run, self_comm>;
