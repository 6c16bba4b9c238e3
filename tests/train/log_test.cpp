#include <moefold/train/log.hpp>

#include <doctest/doctest.h>

#include <array>

#include <fcntl.h>
#include <stdlib.h>
#include <termios.h>

using namespace moefold;
using namespace std::chrono_literals;

namespace {

std::string printed_to_a_file(std::chrono::milliseconds between, void (*speak)(log_sink&)) {
  std::FILE* file = std::tmpfile();
  {
    terminal_sink sink(file, between);
    speak(sink);
  }
  std::rewind(file);
  std::array<char, 4096> text{};
  const std::size_t n = std::fread(text.data(), 1, text.size(), file);
  std::fclose(file);
  return {text.data(), n};
}

// A pseudo terminal of the given width: what a sink writes to `inside` can be read from `outside`.
struct pseudo_terminal {
  int outside = posix_openpt(O_RDWR | O_NOCTTY);
  std::FILE* inside = nullptr;

  explicit pseudo_terminal(unsigned short width) {
    if (outside < 0 || grantpt(outside) != 0 || unlockpt(outside) != 0) return;
    const int fd = open(ptsname(outside), O_RDWR | O_NOCTTY);
    if (fd < 0) return;
    termios raw{};
    tcgetattr(fd, &raw);
    cfmakeraw(&raw);  // line ends as they were written
    tcsetattr(fd, TCSANOW, &raw);
    winsize size{};
    size.ws_col = width;
    size.ws_row = 24;
    ioctl(fd, TIOCSWINSZ, &size);
    inside = fdopen(fd, "w");
  }
  ~pseudo_terminal() {
    if (inside) std::fclose(inside);
    if (outside >= 0) close(outside);
  }
  // Everything written so far. It arrives in pieces, so an end mark is sent after it.
  std::string text() const {
    std::fputc('\0', inside);
    std::fflush(inside);
    std::string all;
    for (char byte = 1; read(outside, &byte, 1) == 1 && byte != '\0';) all += byte;
    return all;
  }
};

}  // namespace

TEST_SUITE("train/log") {
  TEST_CASE("a string sink keeps lines and statuses in order") {
    string_sink sink;
    log_sink& log = sink;
    log.line("a");
    log.status("1");
    log.line("b");
    log.status("2");
    CHECK(sink.lines == std::vector<std::string>{"a", "b"});
    CHECK(sink.statuses == std::vector<std::string>{"1", "2"});
  }
  TEST_CASE("a silent sink takes everything") {
    silent_sink sink;
    sink.line("a");
    sink.status("b");
  }
  TEST_CASE("off a terminal statuses are thinned, but the first and the last before a line stay") {
    const auto speak = [](log_sink& log) {
      log.line("start");
      for (const char* text : {"1", "2", "3"}) log.status(text);
      log.line("middle");
      for (const char* text : {"4", "5"}) log.status(text);
    };
    CHECK(printed_to_a_file(1h, speak) == "start\n1\n3\nmiddle\n5\n");
    CHECK(printed_to_a_file(0ms, speak) == "start\n1\n2\n3\nmiddle\n4\n5\n");
  }
  TEST_CASE("a status is not printed twice") {
    CHECK(printed_to_a_file(1h, [](log_sink& log) {
            log.status("only");
            log.line("end");
          }) == "only\nend\n");
  }
  TEST_CASE("on a terminal a status overwrites the last one and blanks what was longer") {
    const pseudo_terminal terminal(80);
    if (!terminal.inside) return;
    {
      terminal_sink sink(terminal.inside);
      sink.line("start");
      sink.status("a long one");
      sink.status("short");
      sink.line("end");
    }
    CHECK(terminal.text() == "start\n\ra long one\rshort     \nend\n");
  }
  TEST_CASE("a status never wraps in a narrow window") {
    const pseudo_terminal terminal(8);
    if (!terminal.inside) return;
    {
      terminal_sink sink(terminal.inside);
      sink.status("0123456789");
    }
    CHECK(terminal.text() == "\r0123456\n");
  }
}
