#pragma once
// What the fault tests count, for people and for machines: a line of doctest, and one line of JSON at the end of the file that MOEFOLD_FAULT_REPORT names.
//
//   F01: 288 of 288 cases on threads; detection p50 0.4 ms, p99 3.1 ms, worst 8.2 ms
//   {"id":"F01","on":"threads","passed":288,"cases":288,"detection_ms":{"p50":0.4,"p99":3.1,"worst":8.2},"histogram_ms":[[0.25,71],[0.5,1800],..]}
// A bucket of the histogram is its upper limit and how many lie in it, limits doubling from 1/4 ms.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

namespace moefold {

inline double percentile(std::vector<double>& values, double part) {
  std::sort(values.begin(), values.end());
  return values.empty() ? 0 : values[std::min(values.size() - 1, std::size_t(double(values.size()) * part))];
}

/// `milliseconds`: from the fault to the moment a rank knew, of all ranks and cases; sorted on return.
inline void report_faults(const std::string& id, const std::string& on, int passed, int cases, std::vector<double>& milliseconds,
                          std::string_view more = {}) {
  const double p50 = percentile(milliseconds, 0.5), p99 = percentile(milliseconds, 0.99), worst = percentile(milliseconds, 1);
  const std::string tail = more.empty() ? std::string() : "; " + std::string(more);
  if (milliseconds.empty())
    MESSAGE(id, ": ", passed, " of ", cases, " cases on ", on, tail);
  else
    MESSAGE(id, ": ", passed, " of ", cases, " cases on ", on, "; detection p50 ", p50, " ms, p99 ", p99, " ms, worst ", worst, " ms",
            tail);
  const char* const name = std::getenv("MOEFOLD_FAULT_REPORT");
  if (name == nullptr || *name == '\0') return;
  std::FILE* const file = std::fopen(name, "a");
  REQUIRE_MESSAGE(file != nullptr, "MOEFOLD_FAULT_REPORT names ", name, ", which cannot be written");
  std::fprintf(file, "{\"id\":\"%s\",\"on\":\"%s\",\"passed\":%d,\"cases\":%d", id.c_str(), on.c_str(), passed, cases);
  if (!milliseconds.empty()) {
    std::fprintf(file, ",\"detection_ms\":{\"p50\":%.4g,\"p99\":%.4g,\"worst\":%.4g},\"histogram_ms\":[", p50, p99, worst);
    std::size_t at = 0;
    for (double limit = 0.25; at < milliseconds.size(); limit *= 2) {
      const std::size_t first = at;
      while (at < milliseconds.size() && milliseconds[at] <= limit) ++at;
      std::fprintf(file, "%s[%g,%zu]", limit > 0.25 ? "," : "", limit, at - first);
    }
    std::fprintf(file, "]");
  }
  std::fprintf(file, "}\n");
  std::fclose(file);
}
inline void report_faults(const std::string& id, const std::string& on, int passed, int cases, std::string_view more = {}) {
  std::vector<double> none;
  report_faults(id, on, passed, cases, none, more);
}

}  // namespace moefold
