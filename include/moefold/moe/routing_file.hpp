#pragma once
// A routing trace as a file, so that what one run chose can be replayed by another program, mapping or machine. A reader trusts nothing: it
// compares every number with the size of the file before it takes memory, and every choice with the number of experts.
//
//   moefold routing 1 steps 3 layers 4 samples 8 sequence 256 top_k 2 experts 8\n      at most 4096 bytes, numbers from 1
//   int32, little-endian  [steps, layers, samples, sequence, top_k]                    0 .. experts-1, or -1 in all k of a token: not recorded
#include <moefold/core/replace_file.hpp>
#include <moefold/moe/routing.hpp>

#include <array>
#include <bit>
#include <charconv>
#include <new>

namespace moefold {

static_assert(std::endian::native == std::endian::little,
              "moefold: routing files hold little-endian numbers; convert them on this machine");

struct stored_routing {
  routing_trace trace;
  extent_t experts;
};

namespace detail {

inline constexpr const char* record_again = "; record it again with `train --record-routing FILE`";

/// The numbers of the header line, in its order.
struct routing_header {
  static constexpr std::string_view magic = "moefold routing ", version = "1";
  static constexpr std::size_t most_bytes = 4096;
  static constexpr std::array<std::string_view, 6> names{"steps", "layers", "samples", "sequence", "top_k", "experts"};
  static constexpr std::size_t top_k = 4, experts = 5;
  std::array<extent_t, names.size()> number{};

  /// Without the line end.
  std::string text() const {
    std::string line = sentence(magic, version);
    for (std::size_t i = 0; i < names.size(); ++i) line += sentence(' ', names[i], ' ', number[i]);
    return line;
  }
  /// Throws config_error unless a trace can have these numbers; `file` begins the sentence.
  void require_usable(std::string_view file, std::string_view mend) const {
    for (std::size_t i = 0; i < names.size(); ++i)
      require<config_error>(number[i] >= 1, file, " has ", names[i], ' ', number[i], ", needs at least 1", mend);
    constexpr extent_t most = std::numeric_limits<std::int32_t>::max();
    require<config_error>(number[experts] <= most, file, " has experts ", number[experts], ", needs at most ", most, mend);
    require<config_error>(number[top_k] <= number[experts], file, " has top_k ", number[top_k], " of experts ", number[experts],
                          ", needs at least as many experts", mend);
  }
};

/// At most 40 bytes of what a file holds, to be shown in an error.
inline std::string shown(std::string_view text) {
  std::string out(text.substr(0, 40));
  for (char& c : out)
    if (c < ' ' || c > '~') c = '?';
  return text.size() > out.size() ? out + "..." : out;
}

/// `line` without its end.
inline routing_header parse_routing_header(std::string_view line, std::string_view file) {
  std::string_view rest = line.substr(routing_header::magic.size());
  const auto next = [&rest] {
    const std::string_view word = rest.substr(0, rest.find(' '));
    rest.remove_prefix(std::min(rest.size(), word.size() + 1));
    return word;
  };
  const std::string_view version = next();
  require<config_error>(version == routing_header::version, file, " has version '", shown(version), "', this moefold reads version ",
                        routing_header::version, record_again);
  routing_header header;
  for (std::size_t i = 0; i < header.names.size(); ++i) {
    const std::string_view name = next(), digits = next();
    require<config_error>(name == header.names[i], file, " has '", shown(name), "' in its header where '", header.names[i],
                          "' and its number are needed", record_again);
    const auto [end, failure] = std::from_chars(digits.data(), digits.data() + digits.size(), header.number[i]);
    require<config_error>(failure == std::errc{} && end == digits.data() + digits.size(), file, " has ", name, " '", shown(digits),
                          "', needs a number from 1 to ", std::numeric_limits<extent_t>::max(), record_again);
  }
  require<config_error>(line == header.text(), file, " has more in its header than the line '", header.text(), "'", record_again);
  header.require_usable(file, record_again);
  return header;
}

/// Throws config_error that names the first token whose choices are not k different experts, nor all -1.
inline void require_choices(const routing_trace& trace, extent_t experts, std::string_view file, std::string_view mend) {
  const std::size_t k = std::size_t(trace.top_k());
  std::vector<std::int32_t> sorted(k);
  for (std::size_t at = 0; at < trace.choices().size(); at += k) {
    const auto choice = trace.choices().subspan(at, k);
    const auto refuse_unless = [&](bool holds, const auto&... found) {
      if (holds) return;
      const extent_t token = extent_t(at / k), position = token % trace.sequence(), row = token / trace.sequence();
      const extent_t sample = row % trace.samples(), layer = row / trace.samples() % trace.layers();
      const extent_t step = row / trace.samples() / trace.layers();
      throw config_error(sentence(file, " has ", found..., " at step ", step, ", layer ", layer, ", sample ", sample, ", position ",
                                  position, ", needs ", k, " different experts of 0 .. ", experts - 1, " or -1 in all", mend));
    };
    std::copy(choice.begin(), choice.end(), sorted.begin());
    std::sort(sorted.begin(), sorted.end());
    refuse_unless(sorted.front() >= -1, "expert ", sorted.front());
    refuse_unless(sorted.back() < experts, "expert ", sorted.back());
    if (sorted.back() == -1) continue;
    refuse_unless(sorted.front() != -1, "-1 beside expert ", sorted.back());
    const auto twin = std::adjacent_find(sorted.begin(), sorted.end());
    refuse_unless(twin == sorted.end(), "expert ", twin == sorted.end() ? 0 : *twin, " twice");
  }
}

}  // namespace detail

/// Replaces the file by the trace of a model with `experts` experts. Local. Throws config_error for a trace that could not be read back, or
/// where the file cannot be opened; error where it cannot be finished. The old file then stays.
inline void write_routing(const std::string& path, const routing_trace& trace, extent_t experts) {
  const std::string file = sentence("moefold: the trace for routing file '", path, "'");
  const char* mend = "; record a whole run and give the number of experts of its model";
  const detail::routing_header header{{trace.steps(), trace.layers(), trace.samples(), trace.sequence(), trace.top_k(), experts}};
  header.require_usable(file, mend);
  detail::require_choices(trace, experts, file, mend);
  const auto choices = std::as_bytes(trace.choices());
  replace_file(path, "routing file", {header.text(), "\n", {reinterpret_cast<const char*>(choices.data()), choices.size()}});
}

/// Reads what write_routing wrote. Local; takes as much memory as the file is long. Throws config_error, and nothing else, for any other file:
/// says file, what was found, what is needed.
inline stored_routing read_routing(const std::string& path) {
  const std::string file = sentence("moefold: routing file '", path, "'");
  const auto close = [](std::FILE* f) { std::fclose(f); };
  struct stat found {};
  const bool there = ::stat(path.c_str(), &found) == 0;
  require<config_error>(!there || S_ISREG(found.st_mode), file, " is a folder or device, needs a plain file", detail::record_again);
  const std::unique_ptr<std::FILE, decltype(close)> in(std::fopen(path.c_str(), "rb"), close);
  require<config_error>(in != nullptr, "moefold: cannot open routing file '", path, "': ", std::strerror(errno),
                        "; check the path, or record one with `train --record-routing FILE`");

  std::array<char, detail::routing_header::most_bytes> block;
  const std::string_view head(block.data(), std::fread(block.data(), 1, block.size(), in.get()));
  require<config_error>(head.starts_with(detail::routing_header::magic), file, " begins with '", detail::shown(head), "', needs '",
                        detail::routing_header::magic, "'", detail::record_again);
  const std::size_t line = head.find('\n');
  require<config_error>(line != head.npos, file, " has no line end in its first ", head.size(), " bytes, needs one header line of at most ",
                        block.size(), " bytes", detail::record_again);
  const detail::routing_header header = detail::parse_routing_header(head.substr(0, line), file);

  const extent_t bytes = std::max(extent_t(found.st_size) - extent_t(line + 1), extent_t{0});
  const auto& n = header.number;
  extent_t choices = 1;
  for (std::size_t i = 0; i < header.experts; ++i) {
    require<config_error>(n[i] <= bytes / extent_t(sizeof(std::int32_t)) / choices, file, " is cut short: it has ", bytes,
                          " bytes of choices, needs 4 bytes for each of '", header.text(), "'", detail::record_again);
    choices *= n[i];
  }
  require<config_error>(bytes == choices * extent_t(sizeof(std::int32_t)), file, " is too long: it has ", bytes,
                        " bytes of choices, needs ", choices * extent_t(sizeof(std::int32_t)), detail::record_again);
  try {
    stored_routing stored{{n[0], n[1], n[2], n[3], n[4]}, n[detail::routing_header::experts]};
    const auto into = stored.trace.choices();
    const bool whole = std::fseek(in.get(), long(line + 1), SEEK_SET) == 0 &&
                       std::fread(into.data(), sizeof(std::int32_t), into.size(), in.get()) == into.size();
    require<config_error>(whole, file, " cannot be read to its end; check its disk", detail::record_again);
    detail::require_choices(stored.trace, stored.experts, file, detail::record_again);
    return stored;
  } catch (const std::bad_alloc&) {
    throw config_error(sentence(file, " has ", bytes, " bytes of choices, more than there is memory; record fewer steps"));
  }
}

}  // namespace moefold
