// clang-format off
#include <moefold/core/model_shape.hpp>
using namespace moefold;

// fails SINGLE_CHOICE: the router cannot learn. use score_function::softmax_before
#if defined(SINGLE_CHOICE)
constexpr model_shape model{.top_k = 1};
// fails GROUPS_DO_NOT_DIVIDE: experts must be a multiple of expert_groups
#elif defined(GROUPS_DO_NOT_DIVIDE)
constexpr model_shape model{.experts = 8, .expert_groups = 3};
// fails GROUPS_IN_NUMBERS: check_group_size<8(l|ll|L|LL)?, 3(l|ll|L|LL)?>
#elif defined(GROUPS_IN_NUMBERS)
constexpr model_shape model{.experts = 8, .expert_groups = 3};
// fails NO_GROUPS: all groups are equally large
#elif defined(NO_GROUPS)
constexpr model_shape model{.expert_groups = 0};
// fails TOO_MANY_GROUPS: chosen_groups must lie between 1 and expert_groups
#elif defined(TOO_MANY_GROUPS)
constexpr model_shape model{.experts = 8, .top_k = 4, .expert_groups = 2, .chosen_groups = 4};
// fails NO_CHOSEN_GROUPS: chosen_groups must lie between 1 and expert_groups
#elif defined(NO_CHOSEN_GROUPS)
constexpr model_shape model{.chosen_groups = 0};
// fails UNEVEN_SHARES: top_k must be a multiple of chosen_groups
#elif defined(UNEVEN_SHARES)
constexpr model_shape model{.experts = 8, .top_k = 3, .expert_groups = 4, .chosen_groups = 2};
// fails GROUPS_TOO_SMALL: use fewer or larger groups
#elif defined(GROUPS_TOO_SMALL)
constexpr model_shape model{.experts = 8, .top_k = 3, .expert_groups = 4, .chosen_groups = 1};
// fails ROOM_IN_NUMBERS: check_group_room<3(l|ll|L|LL)?, 2(l|ll|L|LL)?>
#elif defined(ROOM_IN_NUMBERS)
constexpr model_shape model{.experts = 8, .top_k = 3, .expert_groups = 4, .chosen_groups = 1};
// fails BIAS_WITHOUT_SIGMOID: expert_bias works on sigmoid scores. use score_function::sigmoid, or balance losses instead
#elif defined(BIAS_WITHOUT_SIGMOID)
constexpr model_shape model{.score = score_function::softmax_before, .expert_bias = true};
// fails GATE_WITHOUT_SHARED: shared_gate gates the shared expert. give it a width, shared_ffn
#elif defined(GATE_WITHOUT_SHARED)
constexpr model_shape model{.shared_gate = true};
// fails NEGATIVE_SHARED: shared_ffn is 0 .no shared expert. or above
#elif defined(NEGATIVE_SHARED)
constexpr model_shape model{.shared_ffn = -1};
// fails NEGATIVE_WINDOW: the number of tokens that a token sees, itself included, or 0 for all of them
#elif defined(NEGATIVE_WINDOW)
constexpr model_shape model{.sliding_window = -1};
// fails DENSE_BEYOND: dense_layers are the first of the model's layers. take 0 .none. to layers
#elif defined(DENSE_BEYOND)
constexpr model_shape model{.dense_layers = 5, .dense_ffn = 64};
// fails DENSE_WITHOUT_WIDTH: dense layers have a width, dense_ffn, and without dense layers there is none
#elif defined(DENSE_WITHOUT_WIDTH)
constexpr model_shape model{.dense_layers = 1};
#else
constexpr model_shape model{.experts = 8, .top_k = 4, .score = score_function::sigmoid, .expert_groups = 4, .chosen_groups = 2,
                            .expert_bias = true, .shared_ffn = 64, .shared_gate = true};  // the control: this one compiles
#endif
template struct moefold::check_model<model>;
