// clang-format off
#include <moefold/inventory/legality.hpp>
using namespace moefold;

struct defaults {
  static constexpr model_shape model{.layers = 4, .heads = 8, .kv_heads = 4, .experts = 8, .ffn = 144};
  static constexpr extent_t sequence = 256;
  using fold = folding<mesh<tp<2>, cp<2>, pp<2>>, mesh<etp<2>, ep<2>, pp<2>>>;
};
struct run : defaults {
// fails HEADS: the attention heads must be a multiple of TP; choose a TP that divides them
#if defined(HEADS)
  using fold = folding<mesh<tp<3>>, mesh<edp<3>>>;
// fails HEADS_IN_NUMBERS: check_heads<8(l|ll|L|LL)?, 3(l|ll|L|LL)?>
#elif defined(HEADS_IN_NUMBERS)
  using fold = folding<mesh<tp<3>>, mesh<edp<3>>>;
// fails KV_HEADS: choose a TP that divides them, and use CP for the rest
#elif defined(KV_HEADS)
  using fold = folding<mesh<tp<8>>, mesh<edp<8>>>;
// fails CONTEXT_HEADS: exchanging heads for sequence needs key/value heads that are a multiple of TP \* CP
#elif defined(CONTEXT_HEADS)
  struct context { static constexpr context_facts facts{.gathers = false, .swap = 0}; };
  using fold = folding<mesh<tp<2>, cp<4>>, mesh<ep<8>>>;
// fails CONTEXT_HEADS_IN_NUMBERS: check_context_heads<4(l|ll|L|LL)?, 8(l|ll|L|LL)?>
#elif defined(CONTEXT_HEADS_IN_NUMBERS)
  struct context { static constexpr context_facts facts{.gathers = false, .swap = 0}; };
  using fold = folding<mesh<tp<2>, cp<4>>, mesh<ep<8>>>;
// fails CONTEXT_RANKS: exchanges heads in groups of A ranks, so CP must be a multiple of A
#elif defined(CONTEXT_RANKS)
  struct context { static constexpr context_facts facts{.gathers = false, .swap = 4}; };
  using fold = folding<mesh<cp<2>>, mesh<ep<2>>>;
// fails EXPERTS: the experts must be a multiple of EP; choose an EP that divides them
#elif defined(EXPERTS)
  using fold = folding<mesh<dp<3>>, mesh<ep<3>>>;
// fails FFN: the expert ffn width must be a multiple of ETP; choose an ETP that divides it
#elif defined(FFN)
  using fold = folding<mesh<dp<5>>, mesh<etp<5>>>;
// fails WINDOW: shorten the sequence to the window, where both are the same, or set sliding_window = 0
#elif defined(WINDOW)
  static constexpr model_shape model{.layers = 4, .heads = 8, .kv_heads = 4, .sliding_window = 255};
// fails WINDOW_IN_NUMBERS: check_window<256(l|ll|L|LL)?, 255(l|ll|L|LL)?>
#elif defined(WINDOW_IN_NUMBERS)
  static constexpr model_shape model{.layers = 4, .heads = 8, .kv_heads = 4, .sliding_window = 255};
// fails SHARED_FFN: the shared expert's ffn width must be a multiple of TP; choose a TP that divides it
#elif defined(SHARED_FFN)
  static constexpr model_shape model{.shared_ffn = 97};
// fails DENSE_FFN: the ffn width of dense layers must be a multiple of TP; choose a TP that divides it
#elif defined(DENSE_FFN)
  static constexpr model_shape model{.dense_layers = 1, .dense_ffn = 97};
// fails SINGLE_CHOICE: with top_k = 1 softmax over the chosen is always 1
#elif defined(SINGLE_CHOICE)
  static constexpr model_shape model{.top_k = 1};
// fails SEQUENCE: the sequence must be a multiple of TP\*CP, and of 2\*CP\*TP when CP > 1
#elif defined(SEQUENCE)
  static constexpr extent_t sequence = 255;
// fails SEQUENCE_IN_NUMBERS: check_pieces<252(l|ll|L|LL)?, 8(l|ll|L|LL)?>
#elif defined(SEQUENCE_IN_NUMBERS)
  static constexpr extent_t sequence = 252;                       // a multiple of TP*CP = 4, not of 2*CP*TP
// fails DEPTH: every pipeline stage, and every chunk of one, needs at least one layer
#elif defined(DEPTH)
  using fold = folding<mesh<pp<5>>, mesh<pp<5>>>;
#endif
};                                                                // the control: this one compiles
static_assert(check_run<run>::ok);
