#pragma once
// Which experts starve and which overflow, as one picture of a whole run: an SVG with a panel per layer. Feed it the load of every step; it
// keeps sums over neighbouring steps, so a run of a million steps takes no more memory and no larger file than one of some hundred.
//
//   layer 0       worst max/mean 1.52 at step 40, last 1.10
//   expert  0 |##..::  ..|      blue   starved      0
//           1 |  ::##....|      white  even         1 = load * experts / sum of the layer's load
//           2 |....  ##::|      red    overloaded   2 and more
//     step     1   50  100      grey   nothing counted
#include <moefold/core/replace_file.hpp>
#include <moefold/core/xml_text.hpp>
#include <moefold/tensor/view.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>
#include <vector>

namespace moefold {

namespace detail {

/// The smallest of 1, 2, 5, 10, 20, 50 ... that is at least `least`.
inline double round_interval(double least) {
  double ten = 1;
  while (ten * 10 <= least) ten *= 10;
  for (const double times : {1.0, 2.0, 5.0})
    if (ten * times >= least) return ten * times;
  return ten * 10;
}

}  // namespace detail

/// The colours of load over the even share: ColorBrewer's RdBu, which is told apart with any colour vision. Source: colorbrewer2.org
struct load_colours {
  static constexpr int levels = 40;  // level 0 is a load of 0, level 20 the even share, level 40 twice the even share and more
  static constexpr const char* nothing = "#b4b4b4";

  /// ratio >= 0
  static int level(double ratio) { return int(std::lround(std::min(ratio, 2.0) * levels / 2)); }
  static std::string of_level(int level) {
    constexpr std::array<unsigned, 11> stops{0x053061, 0x2166ac, 0x4393c3, 0x92c5de, 0xd1e5f0, 0xf7f7f7,
                                             0xfddbc7, 0xf4a582, 0xd6604d, 0xb2182b, 0x67001f};
    constexpr unsigned between = levels / unsigned(stops.size() - 1);
    const unsigned stop = std::min(unsigned(level) / between, unsigned(stops.size() - 2)), part = unsigned(level) - stop * between;
    std::string text = "#";
    for (const unsigned shift : {20u, 16u, 12u, 8u, 4u, 0u}) {  // hexadecimal digits; a channel is two of them
      const unsigned channel = shift / 8 * 8, a = stops[stop] >> channel & 0xFF, b = stops[stop + 1] >> channel & 0xFF;
      const unsigned mixed = (a * (between - part) + b * part + between / 2) / between;
      text += "0123456789abcdef"[mixed >> (shift - channel) & 0xF];
    }
    return text;
  }
};

/// Collects the load of the experts and draws it. Local: one rank feeds it the load of all. A step costs layers * experts additions; sums and
/// picture stay below some 5 MB each while all layers together have at most 300,000 experts.
class load_heatmap {
 public:
  static constexpr std::size_t most_columns = 200;
  static constexpr std::size_t most_cells = 600'000;  // of all panels: with many experts there are fewer columns

  explicit load_heatmap(std::string run) : run_(std::move(run)) {}

  /// load [layers, experts] int64, tokens that chose the expert. Throws error unless steps go up and the extents stay the same.
  void add(std::int64_t step, view<const std::int64_t> load) {
    require(load.rank() == 2, "moefold: a heatmap takes load [layers, experts], given ", load.shape().text());
    if (load.empty()) return;
    if (first_.empty()) {
      layers_ = load.extent(0);
      experts_ = load.extent(1);
      state_.resize(std::size_t(layers_));
      limit_ = std::clamp(most_cells / load.size() / 2 * 2, std::size_t(2), most_columns);
    }
    require(load.extent(0) == layers_ && load.extent(1) == experts_, "moefold: a heatmap of load [", layers_, ", ", experts_,
            "] cannot take ", load.shape().text(), "; draw another model in another heatmap");
    const std::int64_t least = last_.empty() ? 0 : last_.back() + 1;
    require(step >= least, "moefold: a heatmap takes steps in order, given step ", step, ", needs at least ", least);
    const auto negative = std::find_if(load.begin(), load.end(), [](std::int64_t n) { return n < 0; });
    require(negative == load.end(), "moefold: a heatmap counts tokens, given ", negative == load.end() ? 0 : *negative, " at step ", step);

    for (extent_t layer = 0; layer < layers_; ++layer) state_[std::size_t(layer)].see(step, load.rows(layer, 1).span());
    if (first_.empty() || in_last_ == per_column_) begin_column(step);
    double* sum = sum_.data() + sum_.size() - load.size();
    for (std::size_t i = 0; i < load.size(); ++i) sum[i] += double(load[i]);
    last_.back() = step;
    ++in_last_;
  }

  std::size_t columns() const { return first_.size(); }
  std::size_t steps_per_column() const { return per_column_; }  // the last column may have fewer

  /// Load over the even share in a column: the mean over its steps, weighted by their tokens. NaN where nothing was counted.
  double ratio(extent_t layer, extent_t expert, std::size_t column) const {
    const double* load = row(layer, column);
    double all = 0;
    for (extent_t e = 0; e < experts_; ++e) all += load[e];
    return load[expert] * double(experts_) / all;
  }

  /// The picture: valid XML with a white background, also before the first step.
  std::string svg() const {
    const extent_t n = extent_t(columns());
    const extent_t cell_width = n > 0 ? 800 / n : 0, cell_height = n > 0 ? std::clamp(192 / experts_, extent_t{2}, extent_t{14}) : 0;
    const extent_t width = cell_width * n, height = cell_height * experts_;
    const extent_t page_width = left + std::max(width, extent_t{600}) + 28;
    const extent_t page_height = n > 0 ? top + layers_ * (height + between) : top + 40;
    const std::string title = "expert load, " + xml_text(run_, 72);
    std::string out = sentence("<svg xmlns='http://www.w3.org/2000/svg' width='", page_width, "' height='", page_height, "' viewBox='0 0 ",
                               page_width, ' ', page_height, "' role='img' font-family='Helvetica, Arial, sans-serif' font-size='11' ",
                               "fill='#333'>\n<title>", title, "</title>\n<rect width='100%' height='100%' fill='#fff'/>\n");
    out += text(left, 30, "start", title, " font-size='17' fill='#111'");
    append_legend(out);
    if (n == 0) out += text(left, top + 8, "start", "nothing was recorded", " font-size='14'");
    for (extent_t layer = 0; layer < (n > 0 ? layers_ : 0); ++layer) {
      out += sentence("<g class='panel' transform='translate(", left, ' ', top + layer * (height + between), ")'>\n");
      out += text(0, -9, "start", sentence("layer ", layer), " font-size='12' font-weight='bold'");
      out += text(width, -9, "end", state_[std::size_t(layer)].text());
      append_cells(out, layer, cell_width, cell_height);
      out += frame(width, height);
      append_axes(out, cell_width, cell_height, height);
      out += "</g>\n";
    }
    return out + "</svg>\n";
  }

  /// Replaces the file by the picture. Throws config_error where it cannot be opened, error where it cannot be finished: a run that wants
  /// to know at once writes its empty picture first.
  void write(const std::string& path) const { replace_file(path, "heatmap", {svg()}); }

 private:
  static constexpr extent_t left = 64, top = 112, between = 56;  // px: beside the panels, above the first, from one to the next

  /// The fullest expert over the even share, of the worst step and of the last one; 0: nothing counted.
  struct layer_state {
    double worst = 0, last = 0;
    std::int64_t worst_step = 0;

    void see(std::int64_t step, std::span<const std::int64_t> load) {
      double all = 0, most = 0;
      for (const std::int64_t n : load) all += double(n), most = std::max(most, double(n));
      last = all > 0 ? most * double(load.size()) / all : 0;
      if (last > worst) worst = last, worst_step = step;
    }
    static std::string number(double ratio) {
      const long long hundredths = std::llround(ratio * 100);
      return sentence(hundredths / 100, '.', hundredths / 10 % 10, hundredths % 10);
    }
    std::string text() const {
      if (worst == 0) return "nothing counted";
      return sentence("worst max/mean ", number(worst), " at step ", worst_step, ", last ", last > 0 ? number(last) : "not counted");
    }
  };

  double* row(extent_t layer, std::size_t column) {
    return sum_.data() + (column * std::size_t(layers_) + std::size_t(layer)) * std::size_t(experts_);
  }
  const double* row(extent_t layer, std::size_t column) const { return const_cast<load_heatmap*>(this)->row(layer, column); }

  void begin_column(std::int64_t step) {
    const std::size_t cells = std::size_t(layers_ * experts_);
    if (columns() == limit_) {  // full: two neighbours become one
      for (std::size_t c = 0; c < limit_ / 2; ++c) {
        const double *a = row(0, 2 * c), *b = row(0, 2 * c + 1);
        std::transform(a, a + cells, b, row(0, c), [](double x, double y) { return x + y; });
        first_[c] = first_[2 * c];
        last_[c] = last_[2 * c + 1];
      }
      first_.resize(limit_ / 2);
      last_.resize(limit_ / 2);
      sum_.resize(limit_ / 2 * cells);
      per_column_ *= 2;
    }
    first_.push_back(step);
    last_.push_back(step);
    sum_.resize(sum_.size() + cells, 0.0);
    in_last_ = 0;
  }

  static std::string text(extent_t x, extent_t y, const char* anchor, std::string_view words, const char* attributes = "") {
    return sentence("<text x='", x, "' y='", y, "' text-anchor='", anchor, '\'', attributes, '>', words, "</text>\n");
  }
  static std::string tick(extent_t x, extent_t y, const char* line) {
    return sentence("<path d='M", x, ' ', y, line, "' stroke='#888' shape-rendering='crispEdges'/>\n");
  }
  static std::string box(extent_t x, extent_t width, extent_t height, std::string_view colour) {
    return sentence("<rect x='", x, "' width='", width, "' height='", height, "' fill='", colour, "' shape-rendering='crispEdges'/>\n");
  }
  static std::string frame(extent_t width, extent_t height) {
    return sentence("<rect x='-0.5' y='-0.5' width='", width + 1, "' height='", height + 1, "' fill='none' stroke='#888'/>\n");
  }

  void append_legend(std::string& out) const {
    constexpr extent_t step = 6, bar = step * (load_colours::levels + 1), thick = 12;
    out += sentence("<g class='legend' transform='translate(", left, " 46)'>\n");
    for (int level = 0; level <= load_colours::levels; ++level) out += box(step * level, step, thick, load_colours::of_level(level));
    out += frame(bar, thick);
    constexpr std::array<const char*, 5> ticks{"0", "0.5", "1", "1.5", "2+"};
    for (extent_t i = 0; i < 5; ++i) {
      const extent_t x = step * i * load_colours::levels / 4 + step / 2;
      out += tick(x, thick, "v4") + text(x, thick + 15, "middle", ticks[std::size_t(i)]);
    }
    out += text(bar + 12, thick - 2, "start", "load over the even share");
    if (per_column_ > 1) out += text(bar + 12, thick + 15, "start", sentence("a column is the mean of ", per_column_, " steps"));
    out += box(bar + 170, 12, thick, load_colours::nothing) + text(bar + 188, thick - 2, "start", "nothing counted");
    out += "</g>\n";
  }

  // A run of equal cells is a horizontal line as thick as a row; all lines of one colour are one path, in units of cells.
  void append_cells(std::string& out, extent_t layer, extent_t cell_width, extent_t cell_height) const {
    constexpr int nothing = load_colours::levels + 1;
    std::array<std::string, std::size_t(nothing) + 1> lines;
    std::vector<double> scale(columns());
    for (std::size_t c = 0; c < columns(); ++c) {
      double all = 0;
      for (extent_t e = 0; e < experts_; ++e) all += row(layer, c)[e];
      scale[c] = all > 0 ? double(experts_) / all : 0;
    }
    for (extent_t e = 0; e < experts_; ++e) {
      const auto level = [&](std::size_t c) { return scale[c] > 0 ? load_colours::level(row(layer, c)[e] * scale[c]) : nothing; };
      for (std::size_t c = 0, end = 0; c < columns(); c = end) {
        const int here = level(c);
        for (end = c + 1; end < columns() && level(end) == here;) ++end;
        detail::append(lines[std::size_t(here)], sentence('M', c, ' ', e, 'h', end - c));
      }
    }
    out += sentence("<g class='cells' transform='translate(0 ", cell_height / 2, cell_height % 2 ? ".5" : "", ") scale(", cell_width, ' ',
                    cell_height, ")' fill='none' shape-rendering='crispEdges'>\n");
    for (int level = 0; level <= nothing; ++level)
      if (const std::string& path = lines[std::size_t(level)]; !path.empty())
        out += sentence("<path stroke='", level == nothing ? load_colours::nothing : load_colours::of_level(level), "' d='", path, "'/>\n");
    out += "</g>\n";
  }

  void append_axes(std::string& out, extent_t cell_width, extent_t cell_height, extent_t height) const {
    out += text(-8, -9, "end", "expert", " fill='#777'") + text(-8, height + 15, "end", "step", " fill='#777'");
    extent_t apart = 1;
    while (apart * cell_height < 12) apart *= 2;
    for (extent_t e = 0; e < experts_; e += apart) {
      const extent_t y = e * cell_height + cell_height / 2;
      out += tick(-1, y, "h-4") + text(-8, y + 4, "end", std::to_string(e));
    }
    const std::int64_t first = first_.front(), last = last_.back();
    const std::size_t steps = (columns() - 1) * per_column_ + in_last_;
    const double stride = steps > 1 ? double(last - first) / double(steps - 1) : 1;  // from one step that was fed to the next
    const std::int64_t interval = std::int64_t(detail::round_interval(std::max(1.0, double(last - first) / 9)));
    const auto append_step = [&](std::int64_t s) {
      const std::size_t c = std::size_t(std::upper_bound(first_.begin(), first_.end(), s) - first_.begin()) - 1;
      const double fed = double(c + 1 < columns() ? per_column_ : in_last_), part = (double(s - first_[c]) / stride + 0.5) / fed;
      const extent_t x = extent_t((double(c) + std::min(part, 1.0)) * double(cell_width));
      const std::string number = std::to_string(s);
      out += tick(x, height + 1, "v4") + text(std::max(x, extent_t(3 * number.size())), height + 16, "middle", number);
    };
    const std::int64_t round = (first + interval - 1) / interval * interval;
    if (round > last || round - first > interval / 2) append_step(first);
    for (std::int64_t s = round; s <= last; s += interval) append_step(s);
  }

  std::string run_;
  extent_t layers_ = 0, experts_ = 0;
  std::size_t limit_ = most_columns;          // columns; even
  std::size_t per_column_ = 1, in_last_ = 0;  // steps of a full column, of the last one
  std::vector<std::int64_t> first_, last_;    // [columns] steps
  std::vector<double> sum_;                   // [columns, layers, experts]
  std::vector<layer_state> state_;            // [layers]
};

}  // namespace moefold
