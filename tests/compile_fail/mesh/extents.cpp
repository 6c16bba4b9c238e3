// clang-format off
#include <moefold/mesh/extents.hpp>
using namespace moefold;

using dynamic = folding<mesh<tp<2>, dp<dyn>>, mesh<ep<2>, edp<dyn>>>;

// fails NO_WORLD_FOR_MESH: this mesh has a dyn extent. give the world size
#if defined(NO_WORLD_FOR_MESH)
constexpr extents e = extents_of<dynamic::attention>();
// fails NO_WORLD_FOR_FOLDING: both meshes of this folding have a dyn extent. give the world size
#elif defined(NO_WORLD_FOR_FOLDING)
constexpr folding_extents f = resolve<dynamic>();
// fails WORLD_DOES_NOT_FIT: require_world
#elif defined(WORLD_DOES_NOT_FIT)
constexpr folding_extents f = resolve<dynamic>(7);
#else
constexpr folding_extents f = resolve<dynamic>(8);                // the control: this one compiles
static_assert(f.attention.of(axis_id::dp) == 4);
#endif
