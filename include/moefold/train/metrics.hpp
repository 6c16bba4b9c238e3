#pragma once
// The record of a run as JSON lines: the first line says what ran, then one line per step. Only step lines have the key "step", so a
// reader needs no other convention; numbers are written with the fewest digits that read back as the same number.
//
//   {"run":"default_run","world":8,"attention":{"tp":2,...},"moe":{"etp":1,...},"precision":"fp32","version":...,"commit":...,...}
//   {"step":1,"loss":5.55,"grad_norm":1.9,"lr":5e-05,"tokens":2048,...,"expert_load":[[12,...],...],"load_max_over_mean":[1.2,...],
//    "dropped_share":[0.03,...],"balance_losses":{"micro_batch":[0.0102,...]},"comm_bytes":{"tp":81920,...}}
//   {"spike":{"at":120,"loss":4.8,"expected":2.4,"deviations":21,"lasted":0}}      where the loss jumps, and where that is over (train/spike.hpp)
// Lists go by layer. dropped_share is there with a capacity, balance_losses with balance losses, each by its name (core/moe_facts.hpp).
#include <moefold/core/error.hpp>
#include <moefold/train/spike.hpp>

#include <cerrno>
#include <charconv>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <sys/stat.h>
#include <unistd.h>

namespace moefold {

/// Named numbers in a fixed order: the extents of a mesh, bytes by axis.
using named_numbers = std::vector<std::pair<std::string, std::int64_t>>;

constexpr const char* compiler_name() {
#if defined(__clang__)
  return "clang " __clang_version__;
#elif defined(__GNUC__)
  return "g++ " __VERSION__;
#else
  return "unknown";
#endif
}

/// What ran: the first line. Extents innermost axis first.
struct run_record {
  std::string run = {};
  std::int64_t world = 1;  // ranks
  named_numbers attention = {};
  named_numbers moe = {};
  std::string precision = {};
  std::string version = MOEFOLD_VERSION;
  std::string commit = {};
  std::string compiler = compiler_name();
};

/// What one step did, over all ranks.
struct step_record {
  std::int64_t step = 0;  // 1 is the first
  double loss = 0;        // nats per token, before the update
  double grad_norm = 0;   // before clipping
  double learning_rate = 0;
  std::int64_t tokens = 0;                                  // labels that counted in this step
  double tokens_per_second = 0;                             // of this step
  double seconds = 0;                                       // wall time of this step
  double moe_max_over_mean = 1;                             // the fullest expert's tokens over the even share, worst layer
  std::optional<double> dropped = {};                       // share of the (token, expert) pairs that were dropped, 0..1; capacity only
  std::optional<double> balance = {};                       // all balance losses together: mean over tokens, summed over layers
  double comm_cpu_share = 0;                                // CPU time inside collectives over CPU time, 0..1, waiting apart
  std::vector<std::vector<std::int64_t>> expert_load = {};  // [layers][experts], tokens that chose the expert, before dropping
  std::vector<double> load_max_over_mean = {};              // [layers]
  std::vector<double> dropped_share = {};                   // [layers]; none: dropless
  std::vector<std::pair<std::string, std::vector<double>>> balance_losses = {};  // by name: [layers], means over tokens
  named_numbers comm_bytes = {};                                                 // by axis, sent by all ranks
  std::optional<double> eval_loss = {};                                          // held-out, where this step was evaluated
};

namespace detail {

inline void append_json(std::string& out, std::string_view text) {
  out += '"';
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      char code[8];
      std::snprintf(code, sizeof code, "\\u%04x", unsigned(c));
      out += code;
    } else {
      out += c;
    }
  }
  out += '"';
}
inline void append_json(std::string& out, std::int64_t value) { out += std::to_string(value); }
inline void append_json(std::string& out, double value) {
  if (!std::isfinite(value)) {
    out += "null";  // JSON knows neither NaN nor infinity
    return;
  }
  char digits[32];
  out.append(digits, std::to_chars(digits, digits + sizeof digits, value).ptr);
}
inline void append_json(std::string& out, const named_numbers& fields) {
  out += '{';
  for (const auto& [name, value] : fields) {
    if (out.back() != '{') out += ',';
    append_json(out, std::string_view(name));
    out += ':';
    append_json(out, value);
  }
  out += '}';
}
template <class T>
void append_json(std::string& out, const std::vector<T>& list) {
  out += '[';
  for (std::size_t i = 0; i < list.size(); ++i) {
    if (i > 0) out += ',';
    append_json(out, list[i]);
  }
  out += ']';
}

/// One JSON object, field by field.
class json_object {
 public:
  template <class T>
  json_object& field(std::string_view name, const T& value) {
    if (text_.size() > 1) text_ += ',';
    append_json(text_, name);
    text_ += ':';
    append_json(text_, value);
    return *this;
  }
  json_object& object(std::string_view name, const json_object& inner) {
    if (text_.size() > 1) text_ += ',';
    append_json(text_, name);
    text_ += ':' + inner.text();
    return *this;
  }
  std::string text() const { return text_ + '}'; }

 private:
  std::string text_ = "{";
};

}  // namespace detail

inline std::string to_json(const run_record& r) {
  return detail::json_object()
      .field("run", r.run)
      .field("world", r.world)
      .field("attention", r.attention)
      .field("moe", r.moe)
      .field("precision", r.precision)
      .field("version", r.version)
      .field("commit", r.commit)
      .field("compiler", r.compiler)
      .text();
}

inline std::string to_json(const step_record& r) {
  detail::json_object line;
  line.field("step", r.step)
      .field("loss", r.loss)
      .field("grad_norm", r.grad_norm)
      .field("lr", r.learning_rate)
      .field("tokens", r.tokens)
      .field("tokens_per_second", r.tokens_per_second)
      .field("seconds", r.seconds)
      .field("moe_max_over_mean", r.moe_max_over_mean)
      .field("comm_cpu_share", r.comm_cpu_share)
      .field("expert_load", r.expert_load)
      .field("load_max_over_mean", r.load_max_over_mean)
      .field("comm_bytes", r.comm_bytes);
  if (!r.dropped_share.empty()) line.field("dropped_share", r.dropped_share);
  if (!r.balance_losses.empty()) {
    detail::json_object kinds;
    for (const auto& [name, by_layer] : r.balance_losses) kinds.field(name, by_layer);
    line.object("balance_losses", kinds);
  }
  if (r.eval_loss) line.field("eval_loss", *r.eval_loss);
  return line.text();
}

/// An event between step lines; "at" is the step, 1 the first.
inline std::string to_json(const loss_spike& s) {
  detail::json_object inner;
  inner.field("at", s.step + 1)
      .field("loss", s.loss)
      .field("expected", s.expected)
      .field("deviations", s.deviations)
      .field("lasted", s.lasted);
  return detail::json_object().object("spike", inner).text();
}

/// Writes the record to a file, every line flushed, so that a run can be watched and an interrupted one keeps what it did.
/// The constructor replaces the file and throws config_error where it cannot be written; write() throws error when the disk is full.
/// resumed_at: the step that a resumed run goes on behind. Lines of a file that is there stay, up to the first one of a later step; -1: none stay.
class metrics_writer {
 public:
  metrics_writer(std::string path, const run_record& run, std::int64_t resumed_at = -1) : path_(std::move(path)) {
    const long kept = resumed_at < 0 ? 0 : bytes_through(path_, resumed_at);
    file_.reset(std::fopen(path_.c_str(), kept > 0 ? "r+b" : "wb"));
    require<config_error>(file_ != nullptr, "moefold: cannot write metrics file '", path_, "': ", std::strerror(errno),
                          "; name a file in a folder that exists and is writable");
    if (kept > 0)
      require(::ftruncate(fileno(file_.get()), kept) == 0 && std::fseek(file_.get(), 0, SEEK_END) == 0,
              "moefold: cannot cut metrics file '", path_, "' behind step ", resumed_at, ": ", std::strerror(errno));
    line(to_json(run));
  }
  void write(const step_record& step) { line(to_json(step)); }
  void event(const loss_spike& spike) { line(to_json(spike)); }

 private:
  struct close {
    void operator()(std::FILE* f) const { std::fclose(f); }
  };
  /// Bytes of the whole lines before the first one of a step behind `last`; 0 where there is no such file, or none that can be read again.
  static long bytes_through(const std::string& path, std::int64_t last) {
    struct stat found {};
    if (::stat(path.c_str(), &found) != 0 || !S_ISREG(found.st_mode)) return 0;
    const std::unique_ptr<std::FILE, close> file(std::fopen(path.c_str(), "rb"));
    std::string text;
    char block[1 << 14];
    while (file != nullptr)
      if (const std::size_t got = std::fread(block, 1, sizeof block, file.get()))
        text.append(block, got);
      else
        break;
    require<config_error>(file != nullptr && !std::ferror(file.get()), "moefold: cannot read metrics file '", path,
                          "': ", std::strerror(errno),
                          "; the resumed run goes on behind its lines: name another file, or make it readable");
    static constexpr std::string_view key = "{\"step\":";
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t end = text.find('\n', at);
      std::int64_t step = 0;
      if (end == std::string::npos ||  // a line that was never finished
          (text.compare(at, key.size(), key) == 0 &&
           (std::from_chars(text.data() + at + key.size(), text.data() + end, step).ec != std::errc{} || step > last)))
        return long(at);
      at = end + 1;
    }
    return long(text.size());
  }
  void line(std::string text) {
    text += '\n';
    const bool written = std::fwrite(text.data(), 1, text.size(), file_.get()) == text.size() && std::fflush(file_.get()) == 0;
    require(written, "moefold: could not write to metrics file '", path_, "': ", std::strerror(errno), "; free some space on its disk");
  }

  std::string path_;
  std::unique_ptr<std::FILE, close> file_;
};

}  // namespace moefold
