// clang-format off
#include <moefold/mesh/placement.hpp>
using namespace moefold;

// fails FOREIGN_AXIS: a parameter is sharded only on axes of its own mesh
#if defined(FOREIGN_AXIS)
using where = placement<attention_axes, shard<tag::ep, 0>>;
// fails ON_PP: and never on pp, which splits layers
#elif defined(ON_PP)
using where = placement<attention_axes, shard<tag::pp, 0>>;
// fails AXIS_TWICE: each axis cuts one dimension, and a dimension is cut by one axis
#elif defined(AXIS_TWICE)
using where = placement<moe_axes, shard<tag::ep, 0>, shard<tag::ep, 1>>;
// fails DIMENSION_TWICE: each axis cuts one dimension, and a dimension is cut by one axis
#elif defined(DIMENSION_TWICE)
using where = placement<moe_axes, shard<tag::ep, 0>, shard<tag::etp, 0>>;
// fails NO_SUCH_DIMENSION: a shard cuts a dimension that the tensor has, counted from 0
#elif defined(NO_SUCH_DIMENSION)
using where = placement<moe_axes, shard<tag::ep, 4>>;
// fails TWO_MESHES: a placement lies on one mesh
#elif defined(TWO_MESHES)
using where = placement<mesh<tp<2>, ep<2>>, shard<tag::tp, 0>>;
#else
using where = placement<moe_axes, shard<tag::ep, 0>, shard<tag::etp, 1>>;   // the control: this one compiles
#endif
static_assert(where::sharded.count() > 0);
