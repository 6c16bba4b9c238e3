#include <moefold/inventory/traffic.hpp>
#include <moefold/inventory/traffic_calls.hpp>

#include <moefold/core/precision.hpp>

#include "support/counting_new.hpp"
#include "support/random.hpp"

#include <doctest/doctest.h>
