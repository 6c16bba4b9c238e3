#include <moefold/schedule/draw.hpp>

#include <doctest/doctest.h>
#include <moefold/schedule/forward_only.hpp>
#include <moefold/schedule/interleaved.hpp>
#include <moefold/schedule/one_f_one_b.hpp>
#include <moefold/schedule/zero_bubble.hpp>

using namespace moefold;

TEST_SUITE("schedule/draw") {
  TEST_CASE("1F1B on three stages looks like the picture in its header") {
    CHECK(draw<one_f_one_b>(3, 4) ==
          "stage 0 | F0 F1 F2 .  .  B0 F3 B1 .  B2 .  B3\n"
          "stage 1 | .  F0 F1 .  B0 F2 B1 F3 B2 .  B3\n"
          "stage 2 | .  .  F0 B0 F1 B1 F2 B2 F3 B3\n");
  }
  TEST_CASE("forwards alone stream through the stages") {
    CHECK(draw<forward_only>(2, 4) == "stage 0 | F0 F1 F2 F3\nstage 1 | .  F0 F1 F2 F3\n");
  }
  TEST_CASE("a backward of two slots is drawn twice as wide") {
    CHECK(draw<one_f_one_b>(1, 2, {1, 2, 1}) == "stage 0 | F0 B0 -  F1 B1 -\n");
  }
  TEST_CASE("the SVG has a rectangle and a title for every computing step, its name escaped, and the bubble in its title") {
    const std::string svg = draw_svg<interleaved<2>>(4, 8);
    CHECK(svg.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\""));
    CHECK(svg.ends_with("</svg>\n"));
    CHECK(svg.find("interleaved&lt;2&gt;: 4 stages, 8 micro-batches, bubble 15.8%") != std::string::npos);
    const auto count = [&](const std::string& what) {
      int n = 0;
      for (std::size_t at = svg.find(what); at != std::string::npos; at = svg.find(what, at + 1)) ++n;
      return n;
    };
    CHECK(count("<title>forward ") == 4 * 2 * 8);
    CHECK(count("<title>backward ") == 4 * 2 * 8);
    CHECK(count("<rect") == 1 + 2 + 1 + 4 + 2 * 4 * 2 * 8);  // background, legend, chunk, rows, steps
    CHECK(count("<text") == count("</text>"));
    CHECK(draw_svg<zero_bubble>(2, 3).find("backward, weights") != std::string::npos);
    CHECK(draw_svg<one_f_one_b>(1, 1).find("1 stage, 1 micro-batch, bubble 0.0%") != std::string::npos);
    CHECK(draw_svg<one_f_one_b>(2, 0).ends_with("</svg>\n"));
  }
  TEST_CASE("no micro-batches draw empty rows") { CHECK(draw<one_f_one_b>(2, 0) == "stage 0 |\nstage 1 |\n"); }
  TEST_CASE("the bubble of 1F1B is (stages - 1) / (micro-batches + stages - 1)") {
    for (int stages = 1; stages <= 6; ++stages)
      for (int m = stages; m <= 12; ++m) CHECK(bubble<one_f_one_b>(stages, m) == doctest::Approx(double(stages - 1) / (m + stages - 1)));
  }
}
