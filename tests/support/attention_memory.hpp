#pragma once
// The memory of one attention layer, forward and backward, of one long sequence on more and more ranks: bytes of scratch and kept tensors of the rank
// that needs most, as `attended` measures them. Whole tensors of the test are not counted.
#include <moefold/attention/cp_all_to_all.hpp>

#include "attended.hpp"

#include <map>
#include <string>

namespace moefold::test {

struct memory_table {
  struct row {
    int base;                         // from so many ranks on it falls: travelling buffers exist only there
    std::map<int, std::size_t> peak;  // by cp
    /// Bytes of all ranks together, as a share of what `base` ranks need together: 1 where memory falls as 1/cp.
    double share(int cp) const { return double(peak.at(cp)) * cp / (double(peak.at(base)) * base); }
  };
  std::map<std::string, row> rows;

  std::string text() const {
    std::string lines;
    for (const auto& [policy, r] : rows) {
      lines += "\n  " + policy + ":";
      for (const auto& [cp, bytes] : r.peak)
        lines += "  cp " + std::to_string(cp) + " " + std::to_string(bytes) +
                 (cp >= r.base ? " (" + std::to_string(r.share(cp)).substr(0, 5) + ")" : "");
    }
    return lines;
  }
};

/// Adds a row, and compares the output and the input's gradient on every cp with one rank's.
template <class Context, class Precision = fp32>
void measure_memory(memory_table& table, const char* policy, int base, attended& many, const attended& one, std::initializer_list<int> cps,
                    double close = 1e-5) {
  memory_table::row& row = table.rows[policy];
  row.base = base;
  for (const int cp : cps) {
    many.template on<Precision, Context>(1, cp);
    row.peak[cp] = many.peak;
    CAPTURE(policy);
    CAPTURE(cp);
    CHECK(largest_error(many.y, one.y) < close);
    CHECK(largest_error(many.dx, one.dx) < close);
  }
}

/// Every policy but cp_all_gather: all ranks together need what `base` ranks do, times `most` at most. The gathered keys stay where they are.
inline void check_memory_falls(const memory_table& table, double most) {
  for (const auto& [policy, row] : table.rows) {
    const std::string name = policy;
    CAPTURE(name);
    for (const auto& [cp, bytes] : row.peak)
      if (cp > row.base && name != "cp_all_gather") {
        CHECK(row.share(cp) < most);
        CHECK(row.share(cp) > 0.9);
      }
  }
  if (table.rows.contains("cp_all_gather")) CHECK(table.rows.at("cp_all_gather").share(8) > 2);
}

/// Documents of `each` tokens in one sequence: where they begin. They cost less to compute and as much memory.
inline std::vector<std::int32_t> documents_of(extent_t each, extent_t sequence) {
  std::vector<std::int32_t> first(static_cast<std::size_t>(sequence));
  for (extent_t i = 0; i < sequence; ++i) first[std::size_t(i)] = std::int32_t(i / each * each);
  return first;
}

/// Every policy on up to 8 ranks.
inline memory_table memory_of_policies(extent_t sequence, extent_t document) {
  constexpr model_shape model{.hidden = 8, .heads = 8, .kv_heads = 8, .head_dim = 4};
  attended one(model, sequence, 1), many(model, sequence, 1);
  one.first = many.first = documents_of(document, sequence);
  one.on<fp32, cp_ring>(1, 1);
  memory_table table;
  measure_memory<cp_ring>(table, "cp_ring", 2, many, one, {2, 4, 8});
  measure_memory<cp_all_to_all>(table, "cp_all_to_all", 2, many, one, {2, 4, 8});
  measure_memory<cp_combined<2>>(table, "cp_combined<2>", 4, many, one, {4, 8});
  measure_memory<cp_all_gather>(table, "cp_all_gather", 2, many, one, {2, 8});
  return table;
}

}  // namespace moefold::test
