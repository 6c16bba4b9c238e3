#pragma once
// A plan as pictures (SVG): where the groups of every axis lie on the nodes, and where the time of the best plans goes.
//
//            node 0            node 1                      1  tp2 dp8 pp8 | ep8 edp2   |gggggggggggaammttee##|  9.71 s, MFU 49.3 %
//   tp 2   |0 1 0 1 0 1 0 1| |0 1 0 1 0 1 0 1|             2  ...                      |gggggggggggaammtteeee##|
//   ep 8   |0 1 2 3 4 5 6 7| |0 1 2 3 4 5 6 7|             a colour for each part of a step: products, attention, waiting for ep, ...
//   equal colours in a row are one group; the number is the rank's place in it
#include <moefold/core/xml_text.hpp>
#include <moefold/plan/explain.hpp>

namespace moefold {

namespace detail {

/// A page that is written from top to bottom. Coordinates in pixels.
class svg_page {
 public:
  explicit svg_page(const std::string& title) : title_(xml_text(title, 160)) {}

  void text(double x, double y, const char* anchor, std::string_view words, const char* attributes = "") {
    body_ += sentence("<text x='", x, "' y='", y, "' text-anchor='", anchor, "'", attributes, ">", xml_text(words, 160), "</text>\n");
  }
  /// tip: shown where the pointer rests on it.
  void box(double x, double y, double width, double height, std::string_view colour, std::string_view tip = {},
           const char* attributes = "") {
    body_ += sentence("<rect x='", x, "' y='", y, "' width='", width, "' height='", height, "' fill='", colour, "'", attributes);
    body_ += tip.empty() ? std::string("/>\n") : sentence("><title>", xml_text(tip, 160), "</title></rect>\n");
  }
  void line(double x1, double y1, double x2, double y2) {
    body_ += sentence("<path d='M", x1, ' ', y1, "L", x2, ' ', y2, "' stroke='#ddd' shape-rendering='crispEdges'/>\n");
  }
  std::string svg(double width, double height) const {
    return sentence("<svg xmlns='http://www.w3.org/2000/svg' width='", width, "' height='", height, "' viewBox='0 0 ", width, ' ', height,
                    "' role='img' font-family='Helvetica, Arial, sans-serif' font-size='12' fill='#333'>\n<title>", title_,
                    "</title>\n<rect width='100%' height='100%' fill='#fff'/>\n", body_, "</svg>\n");
  }

 private:
  std::string title_, body_;
};

/// Told apart with any colour vision, and light enough for black digits. Source: Paul Tol's schemes, personal.sron.nl/~pault (light, pale)
inline constexpr std::array<const char*, 12> group_colours = {"#77aadd", "#ee8866", "#eedd88", "#ffaabb", "#99ddff", "#44bb99",
                                                              "#bbcc33", "#aaaa00", "#dddddd", "#ccbbee", "#cc99bb", "#88ccaa"};

/// Of the parts of a step, in the order of time_split: computing blue, waiting for others warm, the bubble grey.
inline constexpr std::array<const char*, time_split::parts> time_colours = {"#4477aa", "#66aadd", "#99ccee", "#bbdde8", "#335577",
                                                                            "#cc3311", "#ee7733", "#ee3377", "#aa3377", "#ccbb44",
                                                                            "#999933", "#ddaa66", "#bbbbbb", "#228833", "#777777"};
inline constexpr std::array<const char*, time_split::parts> time_labels = {
    "matrix products", "attention",   "memory-bound kernels", "launches",    "computed again",  "waiting: tp", "waiting: cp", "waiting: ep",
    "waiting: etp",    "waiting: dp", "waiting: edp",         "waiting: pp", "waiting: bubble", "optimizer",   "other"};

}  // namespace detail

/// Nodes side by side, a row for each axis of both meshes. At most 36 GPUs are drawn, or one node.
inline std::string draw_groups(const plan_question& q, const plan_mapping& m) {
  const extent_t per_node = std::min(q.cluster.gpus_per_node, q.job.gpus), nodes = (q.job.gpus + per_node - 1) / per_node;
  const extent_t shown = std::min(nodes, std::max<extent_t>(1, 36 / per_node)), columns = std::min(shown * per_node, q.job.gpus);
  const double cell = std::clamp(960.0 / double(columns), 11.0, 30.0), row = 30, left = 96, top = 92, gap = 14;
  const double right = left + double(columns) * cell + double(shown - 1) * gap;
  detail::svg_page page(sentence("groups of ", q.model, " on ", q.cluster.name));
  page.text(20, 30, "start", sentence(q.model, " on ", q.job.gpus, " GPUs of ", q.cluster.name, ": ", short_text(m)),
            " font-size='17' fill='#111'");
  page.text(20, 50, "start", "equal colours in a row are one group, the number is the place in it; numbers below are ranks",
            " fill='#777'");
  const auto x_of = [&](extent_t gpu) { return left + double(gpu) * cell + double(gpu / per_node) * gap; };

  const std::vector<axis_id> attention = {axis_id::tp, axis_id::cp, axis_id::dp, axis_id::pp},
                             experts = {axis_id::etp, axis_id::ep, axis_id::edp};  // and the same pp
  constexpr std::size_t dozen = detail::group_colours.size();                      // and two lighter ones: 36 groups can be told apart
  double y = top;
  const auto mesh = [&](const char* name, const std::vector<axis_id>& axes) {
    page.text(20, y + 14, "start", name, " font-weight='bold'");
    y += 22;
    for (const axis_id axis : axes) {
      const group_span span = span_of(q.job, q.cluster, m, axis);
      if (span.ranks == 1) continue;
      page.text(left - 12, y + row / 2 + 2, "end", sentence(name_of(axis), ' ', span.ranks), " font-size='13'");
      std::vector<extent_t> firsts;  // of the groups seen so far: their colours
      for (extent_t gpu = 0; gpu < columns; ++gpu) {
        const detail::place_in_group place = detail::place_of(q.job, m, axis, gpu);
        const auto at = std::find(firsts.begin(), firsts.end(), place.first);
        const std::size_t colour = std::size_t(at - firsts.begin());
        if (at == firsts.end()) firsts.push_back(place.first);
        page.box(x_of(gpu), y, cell - 1, row - 4, detail::group_colours[colour % dozen],
                 sentence("rank ", gpu, ": number ", place.index, " of the ", name_of(axis), " group of rank ", place.first),
                 colour < dozen       ? ""
                 : colour < 2 * dozen ? " fill-opacity='0.6'"
                                      : " fill-opacity='0.3'");
        if (cell >= 16) page.text(x_of(gpu) + (cell - 1) / 2, y + row / 2 + 2, "middle", std::to_string(place.index), " font-size='11'");
      }
      page.text(right + 14, y + row / 2 + 2, "start",
                span.nodes() == 1 ? std::string("inside a node") : sentence("over ", span.nodes(), " nodes"),
                span.nodes() == 1 ? " fill='#228833'" : " fill='#cc3311'");
      y += row;
    }
    y += 12;
  };
  mesh("attention", attention), mesh("experts", experts);
  for (extent_t node = 0; node < shown; ++node) {
    const extent_t first = node * per_node, last = std::min(columns, first + per_node) - 1;
    page.box(x_of(first) - 4, top - 16, x_of(last) + cell - 1 - x_of(first) + 8, y - top + 30, "none", {}, " stroke='#555' rx='5'");
    page.text(x_of(first), top - 2, "start", sentence("node ", node), " fill='#555'");
    for (extent_t gpu = first; gpu <= last; ++gpu)
      if (cell >= 16 || gpu == first)
        page.text(x_of(gpu) + (cell - 1) / 2, y + 6, "middle", std::to_string(gpu), " font-size='10' fill='#777'");
  }
  if (nodes > shown) page.text(20, y + 34, "start", sentence("and ", nodes - shown, " more nodes"), " fill='#777'");
  return page.svg(std::max(right + 120, 700.0), y + (nodes > shown ? 48 : 28));
}

/// A stacked bar for each plan, in seconds of a step.
inline std::string draw_times(const plan_question& q, const std::vector<prediction>& plans) {
  const double left = 330, width = 640, bar = 24, row = 34;
  double longest = 0;
  std::array<bool, time_split::parts> used{};
  for (const prediction& p : plans) {
    longest = std::max(longest, p.time.total());
    for (std::size_t i = 0; i < time_split::parts; ++i) used[i] = used[i] || p.time.all()[i] > 2e-3 * p.step_seconds;
  }
  detail::svg_page page("time of a step of " + q.model);
  page.text(20, 30, "start", sentence("where the time of a step goes: ", q.model, " on ", q.job.gpus, " GPUs of ", q.cluster.name),
            " font-size='17' fill='#111'");
  double x = 20, y = 50;
  for (std::size_t i = 0; i < time_split::parts; ++i) {
    if (!used[i]) continue;
    const double wide = 26 + 7.0 * double(std::string_view(detail::time_labels[i]).size());
    if (x + wide > left + width) x = 20, y += 20;
    page.box(x, y, 12, 12, detail::time_colours[i]);
    page.text(x + 17, y + 10, "start", detail::time_labels[i]);
    x += wide;
  }
  const double top = y + 34, bottom = top + row * double(plans.size());
  const double scale = longest > 0 ? width / longest : 0;
  double step = 1e-6;  // between the marks: the smallest of 1, 2, 5, 10 ... that leaves at most eight
  for (int i = 0; longest / step > 8; ++i) step *= i % 3 == 1 ? 2.5 : 2;
  for (double mark = 0; longest > 0 && mark <= longest * 1.0001; mark += step) {
    page.line(left + mark * scale, top - 8, left + mark * scale, bottom + 4);
    page.text(left + mark * scale, bottom + 20, "middle", detail::printed("%.4g s", mark), " fill='#777'");
  }
  for (std::size_t n = 0; n < plans.size(); ++n) {
    const prediction& p = plans[n];
    const double at = top + row * double(n);
    page.text(20, at + 16, "start", sentence(n + 1, "  ", short_text(p.mapping)));
    double from = left;
    for (std::size_t i = 0; i < time_split::parts; ++i) {
      const double seconds = p.time.all()[i];
      if (seconds <= 0) continue;
      page.box(from, at, seconds * scale, bar, detail::time_colours[i],
               sentence(detail::time_labels[i], ": ", detail::seconds_text(seconds), ", ", detail::percent_text(seconds / p.step_seconds),
                        " %"));
      from += seconds * scale;
    }
    page.text(left + width + 12, at + 16, "start",
              sentence(detail::seconds_text(p.step_seconds), ", MFU ", detail::percent_text(p.mfu), " %"));
  }
  return page.svg(left + width + 170, bottom + 36);
}

}  // namespace moefold
