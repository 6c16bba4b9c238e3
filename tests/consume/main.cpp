// What a user writes first: how attention and MoE lie on eight ranks, checked by the compiler and printed as a table.
#include <moefold/core/version.hpp>
#include <moefold/mesh/describe.hpp>

#include <cstdio>

using namespace moefold;
using fold = folding<mesh<tp<2>, cp<2>, pp<2>>, mesh<ep<4>, pp<2>>>;

int main() { std::printf("moefold %s\n%s", MOEFOLD_VERSION, describe(resolve<fold>()).c_str()); }
