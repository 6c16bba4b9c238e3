// clang-format off
#include <moefold/mesh/mesh.hpp>
using namespace moefold;

// fails TWO_DYN: a mesh has at most one dyn axis, so that the world size can fill it in
#if defined(TWO_DYN)
using my_mesh = mesh<tp<dyn>, dp<dyn>>;
// fails TWICE: a mesh names the same axis twice. name each axis once
#elif defined(TWICE)
using my_mesh = mesh<tp<2>, cp<2>, tp<2>>;
#else
using my_mesh = mesh<tp<2>, cp<2>, dp<dyn>>;                      // the control: this one compiles
#endif
static_assert(my_mesh::fixed_ranks != 7);
