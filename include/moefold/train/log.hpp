#pragma once
// Where a run speaks to its user: whole lines that stay, and a status that is renewed every step. Replace the sink to send both elsewhere.
//
//                    line(text)     status(text)
//   terminal_sink    printed        on a terminal one line, overwritten in place; in a file or pipe a plain line now and then
//   string_sink      kept           kept
//   silent_sink      dropped        dropped
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include <sys/ioctl.h>
#include <unistd.h>

namespace moefold {

/// Called by one rank, from one thread. Texts have no line end.
class log_sink {
 public:
  virtual ~log_sink() = default;
  virtual void line(std::string_view text) = 0;
  virtual void status(std::string_view text) = 0;  // replaces the last status
};

class silent_sink final : public log_sink {
 public:
  void line(std::string_view) override {}
  void status(std::string_view) override {}
};

/// Keeps everything; for tests and for programs that show the log themselves.
class string_sink final : public log_sink {
 public:
  void line(std::string_view text) override { lines.emplace_back(text); }
  void status(std::string_view text) override { statuses.emplace_back(text); }

  std::vector<std::string> lines;
  std::vector<std::string> statuses;
};

/// Prints. The last status before a line, and the last of all, always stay visible.
class terminal_sink final : public log_sink {
 public:
  explicit terminal_sink(std::FILE* out = stdout, std::chrono::milliseconds between_plain_statuses = std::chrono::seconds(5))
      : out_(out), live_(isatty(fileno(out)) == 1), pause_(between_plain_statuses) {}
  terminal_sink(const terminal_sink&) = delete;
  terminal_sink& operator=(const terminal_sink&) = delete;
  ~terminal_sink() override { end_status(); }

  void line(std::string_view text) override {
    end_status();
    print(text);
    print("\n");
    std::fflush(out_);
  }

  void status(std::string_view text) override {
    if (live_)
      overwrite(text);
    else
      thin(text);
  }

 private:
  // A status wider than the window would wrap and could not be overwritten; a shorter one leaves the rest of the last one to be blanked.
  void overwrite(std::string_view text) {
    text = text.substr(0, columns() - 1);
    const std::size_t rest = shown_ > text.size() ? shown_ - text.size() : 0;
    print("\r");
    print(text);
    print(std::string(rest, ' '));
    std::fflush(out_);
    shown_ = text.size();
    open_ = true;
  }
  void thin(std::string_view text) {
    const auto now = std::chrono::steady_clock::now();
    pending_ = text;
    open_ = true;
    if (printed_any_ && now - printed_ < pause_) return;
    printed_any_ = true;
    printed_ = now;
    end_status();
    std::fflush(out_);
  }
  void end_status() {
    if (!open_) return;
    print(pending_);
    print("\n");
    std::fflush(out_);
    pending_.clear();
    shown_ = 0;
    open_ = false;
  }
  std::size_t columns() const {
    winsize window{};
    return ioctl(fileno(out_), TIOCGWINSZ, &window) == 0 && window.ws_col > 1 ? window.ws_col : 1000;
  }
  void print(std::string_view text) { std::fwrite(text.data(), 1, text.size(), out_); }

  std::FILE* out_;
  bool live_;  // out_ is a terminal
  std::chrono::steady_clock::duration pause_;
  std::chrono::steady_clock::time_point printed_{};
  bool printed_any_ = false;
  bool open_ = false;      // a status waits for its line end
  std::size_t shown_ = 0;  // characters of the status on the terminal
  std::string pending_;    // a plain status not printed yet
};

}  // namespace moefold
