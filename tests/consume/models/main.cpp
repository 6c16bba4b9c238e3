#include <moefold/models/Tiny_MoE_1_0.hpp>

#include <cstdio>

int main() { std::printf("%d layers\n", int(Tiny_MoE_1_0.layers)); }
