#include <moefold/train/first_losses.hpp>

#include <doctest/doctest.h>

#include <cmath>

using namespace moefold;

namespace {

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_SUITE("train/first_losses") {
  TEST_CASE("equal losses are said to be equal, different ones and NaN are not") {
    const double one[] = {5.0, 4.0}, close[] = {5.00001, 4.0}, other[] = {5.0, 4.001}, broken[] = {5.0, std::nan("")};
    bool same = false;
    CHECK(has(compare_losses(close, one, same), "the first 2 losses are those of a single rank: largest relative difference 2.0e-06"));
    CHECK(same);
    CHECK(has(compare_losses(other, one, same), "WARNING: the first 2 losses are NOT those of a single rank"));
    CHECK(!same);
    CHECK(has(compare_losses(broken, one, same), "NOT those of a single rank"));
    CHECK(!same);
  }
}
