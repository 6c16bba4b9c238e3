#include <moefold/train/heatmap.hpp>

#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <sstream>

using namespace moefold;

namespace {

// The elements of a document by name, closed ones only; {} where it is not well-formed.
std::map<std::string, int> elements_of(const std::string& xml) {
  std::map<std::string, int> closed;
  std::vector<std::string> open;
  for (std::size_t i = 0; i < xml.size();) {
    if (static_cast<unsigned char>(xml[i]) < 0x20 && xml[i] != '\n') return {};
    if (xml[i] == '&') {
      const std::string entity = xml.substr(i, xml.find(';', i) - i);
      if (entity != "&amp" && entity != "&lt" && entity != "&gt") return {};
    }
    if (xml[i] == '>' || (open.empty() && xml[i] != '<' && xml[i] != '\n')) return {};
    if (xml[i++] != '<') continue;
    const std::size_t end = xml.find('>', i);
    if (end == std::string::npos) return {};
    std::string tag = xml.substr(i, end - i);
    i = end + 1;
    if (tag[0] == '/') {
      if (open.empty() || open.back() != tag.substr(1)) return {};
      ++closed[open.back()];
      open.pop_back();
      continue;
    }
    const bool alone = tag.back() == '/';
    if (alone) tag.pop_back();
    std::size_t at = tag.find(' ');
    const std::string name = tag.substr(0, at);
    while (at != std::string::npos && at < tag.size()) {  // name='value'
      const std::size_t from = tag.find("='", at), to = from == std::string::npos ? from : tag.find('\'', from + 2);
      if (tag[at] != ' ' || to == std::string::npos) return {};
      if (tag.substr(from + 2, to - from - 2).find_first_of("<&") != std::string::npos) return {};
      at = to + 1;
    }
    alone ? void(++closed[name]) : open.push_back(name);
  }
  return open.empty() ? closed : std::map<std::string, int>{};
}

// The colours of a panel's cells, [experts][columns] as drawn; fails where a cell is drawn twice.
std::map<std::pair<int, int>, std::string> cells_of(const std::string& svg, int panel) {
  std::size_t at = 0;
  for (int p = 0; p <= panel; ++p) at = svg.find("<g class='cells'", at + 1);
  REQUIRE(at != std::string::npos);
  std::istringstream group(svg.substr(at, svg.find("</g>", at) - at));
  std::map<std::pair<int, int>, std::string> colours;
  std::string line;
  std::getline(group, line);
  while (std::getline(group, line)) {
    const std::string colour = line.substr(line.find("stroke='") + 8, 7);
    std::istringstream path(line.substr(line.find("d='") + 3));
    int column = 0, expert = 0, length = 0;
    for (char m = 0, h = 0; path >> m && m == 'M' && path >> column >> expert >> h >> length && h == 'h';)
      for (int c = column; c < column + length; ++c) CHECK(colours.emplace(std::pair(expert, c), colour).second);
  }
  return colours;
}

int count(const std::string& text, const std::string& word) {
  int n = 0;
  for (std::size_t at = text.find(word); at != std::string::npos; at = text.find(word, at + 1)) ++n;
  return n;
}
bool has(const std::string& text, const std::string& word) { return count(text, word) > 0; }

int channel(const std::string& colour, std::size_t i) { return std::stoi(colour.substr(1 + 2 * i, 2), nullptr, 16); }

void add(load_heatmap& map, std::int64_t step, extent_t layers, const std::vector<std::int64_t>& load) {
  map.add(step, {load.data(), {layers, extent_t(load.size()) / layers}});
}

const std::string even = load_colours::of_level(load_colours::levels / 2);

}  // namespace

TEST_SUITE("train/heatmap") {
  TEST_CASE("the picture has one panel per layer and every cell once") {
    load_heatmap map("r");
    for (int s = 1; s <= 5; ++s) add(map, s, 3, {s, 1, 2, 3, 3, 3, 4, 5, 2, 2, 2, 2});
    const std::string svg = map.svg();
    auto elements = elements_of(svg);
    CHECK(elements["svg"] == 1);
    CHECK(svg.starts_with("<svg xmlns='http://www.w3.org/2000/svg' "));
    CHECK(count(svg, "class='panel'") == 3);
    CHECK(elements["g"] == 2 * 3 + 1);  // a panel and its cells; the legend
    for (int panel = 0; panel < 3; ++panel) CHECK(cells_of(svg, panel).size() == 4 * 5);
    for (const char* words : {"expert load, r", ">layer 0<", ">layer 2<", ">expert<", ">step<", ">2+<", "fill='#fff'"})
      CHECK(has(svg, words));
    CHECK_FALSE(has(svg, "a column is the mean"));
  }
  TEST_CASE("the even share is neutral, a starved expert cool, an overloaded one warm, an uncounted layer grey") {
    load_heatmap map("r");
    add(map, 1, 3, {7, 7, 7, 7, 0, 5, 10, 25, 0, 0, 0, 0});
    const std::string svg = map.svg();
    for (const auto& [place, colour] : cells_of(svg, 0)) CHECK(colour == even);
    auto uneven = cells_of(svg, 1);
    const std::string starved = uneven[{0, 0}], low = uneven[{1, 0}], fair = uneven[{2, 0}], over = uneven[{3, 0}];
    CHECK(fair == even);
    CHECK(starved == load_colours::of_level(0));
    CHECK(over == load_colours::of_level(load_colours::levels));  // 2.5 times the share is "2+"
    CHECK(channel(starved, 2) > channel(starved, 0));             // blue over red
    CHECK(channel(low, 2) > channel(low, 0));
    CHECK(channel(over, 0) > channel(over, 2));
    CHECK(channel(low, 0) > channel(starved, 0));  // darker the further from even
    for (const auto& [place, colour] : cells_of(svg, 2)) CHECK(colour == load_colours::nothing);
    CHECK(count(svg, "nothing counted") == 2);  // the legend and the layer
  }
  TEST_CASE("colours run from dark blue through near white to dark red without a repeat") {
    CHECK(load_colours::of_level(0) == "#053061");
    CHECK(even == "#f7f7f7");
    CHECK(load_colours::of_level(2) == "#134b87");  // the middle of two stops
    CHECK(load_colours::of_level(load_colours::levels) == "#67001f");
    std::map<std::string, int> seen;
    for (int level = 0; level <= load_colours::levels; ++level) ++seen[load_colours::of_level(level)];
    CHECK(seen.size() == load_colours::levels + 1);
    CHECK_FALSE(seen.contains(load_colours::nothing));
    CHECK(load_colours::level(1.0) == 20);
    CHECK(load_colours::level(0.5) == 10);
    CHECK(load_colours::level(1e300) == load_colours::levels);
  }
  TEST_CASE("1000 steps become at most 200 columns, each the mean of its steps") {
    load_heatmap map("r");
    const auto load = [](std::int64_t s) { return std::vector<std::int64_t>{s, 2 * s % 7, 100 - s % 13, 5}; };
    for (int s = 1; s <= 1000; ++s) add(map, s, 1, load(s));
    REQUIRE(map.steps_per_column() == 8);
    REQUIRE(map.columns() == 125);
    for (std::size_t c = 0; c < 125; ++c) {
      std::vector<double> sum(4);
      double all = 0;
      for (std::size_t s = 8 * c + 1; s <= 8 * c + 8; ++s)
        for (std::size_t e = 0; e < 4; ++e) sum[e] += double(load(extent_t(s))[e]), all += double(load(extent_t(s))[e]);
      for (std::size_t e = 0; e < 4; ++e) CHECK(map.ratio(0, extent_t(e), c) == doctest::Approx(4 * sum[e] / all));
    }
    const std::string svg = map.svg();
    CHECK(has(svg, "a column is the mean of 8 steps"));
    CHECK(has(svg, "<text x='149' y='72' text-anchor='middle'>200</text>"));  // the last of 8 steps of column 24, 6 px wide
    auto cells = cells_of(svg, 0);
    CHECK(cells.size() == 4 * 125);
    for (int c = 0; c < 125; ++c)
      for (int e = 0; e < 4; ++e) CHECK(cells[{e, c}] == load_colours::of_level(load_colours::level(map.ratio(0, e, std::size_t(c)))));
  }
  TEST_CASE("no number of steps or experts makes more cells than promised") {
    load_heatmap longest("r"), widest("r");
    for (int s = 1; s <= 20'000; ++s) {
      add(longest, s, 1, {1, 2});
      CHECK(longest.columns() <= load_heatmap::most_columns);
    }
    std::vector<std::int64_t> load(61 * 256);
    for (int s = 1; s <= 100; ++s) {
      for (std::size_t i = 0; i < load.size(); ++i) load[i] = std::int64_t(i * 2654435761u % 61) + s;
      add(widest, s, 61, load);
      CHECK(widest.columns() * load.size() <= load_heatmap::most_cells);
    }
    CHECK(widest.columns() >= 19);
    CHECK(widest.svg().size() < 6'000'000);
  }
  TEST_CASE("a step in which a layer counted nothing leaves the mean of its column alone") {
    load_heatmap map("r");
    for (int s = 1; s <= 400; ++s) add(map, s, 1, {s % 2 ? 3 : 0, s % 2 ? 1 : 0});
    CHECK(map.ratio(0, 0, 0) == 1.5);
  }
  TEST_CASE("a panel says its worst and its last imbalance") {
    load_heatmap map("r");
    add(map, 10, 2, {1, 3, 0, 0});
    add(map, 20, 2, {7, 1, 5, 5});
    add(map, 30, 2, {9, 11, 0, 0});
    const std::string svg = map.svg();
    CHECK(has(svg, ">worst max/mean 1.75 at step 20, last 1.10<"));
    CHECK(has(svg, ">worst max/mean 1.00 at step 20, last not counted<"));
  }
  TEST_CASE("steps are labelled by round numbers and the first, experts as closely as they fit") {
    const auto labels = [](std::int64_t first, std::int64_t last, std::int64_t by) {
      load_heatmap map("r");
      for (std::int64_t s = first; s <= last; s += by) add(map, s, 1, {1, 1});
      const std::string svg = map.svg();
      std::string found;
      for (std::size_t at = svg.find("y='44'"); at != std::string::npos; at = svg.find("y='44'", at + 1)) {
        const std::size_t from = svg.find('>', at) + 1;
        found += svg.substr(from, svg.find('<', from) - from) + " ";
      }
      return found;
    };
    CHECK(labels(1, 3, 1) == "1 2 3 ");
    CHECK(labels(1, 1, 1) == "1 ");
    CHECK(labels(7, 7, 1) == "7 ");
    CHECK(labels(0, 100, 1) == "0 20 40 60 80 100 ");
    CHECK(labels(1, 1000, 1) == "1 200 400 600 800 1000 ");
    CHECK(labels(990, 1510, 1) == "1000 1100 1200 1300 1400 1500 ");  // 990 would touch 1000
    CHECK(labels(7, 107, 10) == "7 20 40 60 80 100 ");                // every tenth step fed
    CHECK(labels(1'000'000'001, 1'000'000'003, 1) == "1000000001 1000000002 1000000003 ");

    load_heatmap map("r");
    add(map, 1, 1, std::vector<std::int64_t>(64, 1));  // rows of 3 px
    CHECK(has(map.svg(), ">60</text>"));
    CHECK_FALSE(has(map.svg(), ">61</text>"));
  }
  TEST_CASE("before the first step the picture is valid and says that nothing was recorded") {
    load_heatmap map("r");
    map.add(1, {nullptr, {4, 0}});  // a model without experts
    CHECK(elements_of(map.svg())["svg"] == 1);
    CHECK(has(map.svg(), ">nothing was recorded<"));
    CHECK(count(map.svg(), "class='panel'") == 0);
  }
  TEST_CASE("any run name gives valid XML") {
    const auto title = [](std::string_view name) {
      const std::string svg = load_heatmap(std::string(name)).svg();
      CHECK(elements_of(svg)["title"] == 1);
      const std::size_t from = svg.find("<title>expert load, ") + 20;
      return svg.substr(from, svg.find("</title>") - from);
    };
    CHECK(title("a<b> & \"c\" 'd'") == "a&lt;b&gt; &amp; \"c\" 'd'");
    CHECK(title(std::string_view("a\0b\n\x1F\x7F", 6)) == "a?b???");
    CHECK(title("m\xC3\xBCller \xE2\x82\xAC \xF0\x9F\x98\x80") == "m\xC3\xBCller \xE2\x82\xAC \xF0\x9F\x98\x80");
    CHECK(title("\xFF\xC3") == "??");            // no UTF-8; cut short
    CHECK(title("\xC0\xAF") == "??");            // longer than needed
    CHECK(title("\xED\xA0\x80") == "???");       // half a surrogate pair
    CHECK(title("\xEF\xBF\xBF") == "???");       // not a character
    CHECK(title("\xF4\x90\x80\x80") == "????");  // beyond Unicode
    CHECK(title(std::string(500, '<')).size() == 72 * 4 + 3);
    CHECK(title("") == "");
  }
  TEST_CASE("what cannot be drawn is refused with what would do") {
    load_heatmap map("r");
    add(map, 5, 1, {1, 2});
    CHECK_THROWS_WITH_AS(add(map, 5, 1, {1, 2}), "moefold: a heatmap takes steps in order, given step 5, needs at least 6", error);
    CHECK_THROWS_WITH_AS(add(map, 6, 2, {1, 2, 3, 4}),
                         "moefold: a heatmap of load [1, 2] cannot take [2, 2]; draw another model in another heatmap", error);
    CHECK_THROWS_WITH_AS(add(map, 6, 1, {1, -2}), "moefold: a heatmap counts tokens, given -2 at step 6", error);
    const std::vector<std::int64_t> flat{1, 2};
    CHECK_THROWS_WITH_AS(map.add(6, {flat.data(), {2}}), "moefold: a heatmap takes load [layers, experts], given [2]", error);
    CHECK(map.columns() == 1);
  }
  TEST_CASE("the file is the picture, and one that cannot be written is refused by name") {
    load_heatmap map("r");
    add(map, 1, 1, {1, 2});
    std::string folder = (std::filesystem::temp_directory_path() / "moefold_heatmap_XXXXXX").string();
    REQUIRE(mkdtemp(folder.data()) != nullptr);
    map.write(folder + "/load.svg");
    std::ifstream in(folder + "/load.svg");
    CHECK(std::string(std::istreambuf_iterator<char>(in), {}) == map.svg());
    std::filesystem::remove_all(folder);
    CHECK_THROWS_WITH_AS(map.write("/no/such/folder/load.svg"),
                         "moefold: cannot write heatmap '/no/such/folder/load.svg': No such file or directory; name a file in a folder "
                         "that exists and is writable",
                         config_error);
  }
}
