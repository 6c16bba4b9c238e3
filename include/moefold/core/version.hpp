#pragma once
// The version of the library, for programs that print it and for files that record it.

#define MOEFOLD_VERSION_MAJOR 0
#define MOEFOLD_VERSION_MINOR 1
#define MOEFOLD_VERSION_PATCH 0
#define MOEFOLD_VERSION "0.1.0"

static_assert(__cplusplus >= 202002L, "moefold: needs C++20; compile with -std=c++20");
