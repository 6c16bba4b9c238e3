// What the ranks of a communicator post before data moves: with any signatures and any counts they agree exactly if a second look says so, and where they do
// not there is one culprit, in words. Bytes: ranks, then for each a signature and its counts, each number mostly one of few.
#include <moefold/comm/compare.hpp>

#include "fuzz.hpp"

using namespace moefold;

namespace {

struct post {
  signature what;
  std::vector<std::size_t> send_counts, recv_counts;
};

}  // namespace

std::vector<std::string> fuzz_seeds() {
  std::string all_to_all_v{char(1)};
  for (int rank = 0; rank < 2; ++rank)
    all_to_all_v += std::string{char(operation::all_to_all_v), 3, 0, 0, 0, 5} + std::string("\1\2\1\2", 4);
  return {all_to_all_v, std::string(40, '\0'), std::string(64, '\377'), "\2\4\3\2\1\4\3\2\1\4\3\2\1"};
}

void fuzz_one(std::span<const std::byte> input) {
  std::size_t at = 0;
  const auto byte = [&] { return at < input.size() ? std::uint8_t(input[at++]) : std::uint8_t(0); };
  const auto number = [&]() -> std::uint64_t {
    constexpr std::uint64_t rare[] = {std::uint64_t{1} << 31, std::uint64_t{1} << 63, ~std::uint64_t{0}, std::uint64_t{1} << 32};
    const std::uint8_t b = byte();
    return b >= 252 ? rare[b - 252] : b % 8;
  };
  const int size = 1 + byte() % 5;
  std::vector<post> posts(static_cast<std::size_t>(size));
  for (post& p : posts) {
    p.what.op = operation(byte() % operations);
    p.what.type = dtype(byte() % 4);
    p.what.reduction = byte() % 4 == 1 ? "max" : "sum";
    p.what.root = int(byte() % 3) - 1;
    p.what.count = number();
    p.what.seq = byte() % 16 == 1 ? 7 : 5;
    for (int r = 0; r < size; ++r) p.send_counts.push_back(std::size_t(number()));
    for (int r = 0; r < size; ++r) p.recv_counts.push_back(std::size_t(number()));
    if (byte() % 2 == 0) p.what = posts.front().what;
    if (byte() % 2 == 0) p.send_counts = posts.front().send_counts;
  }
  if (byte() % 2 == 0)
    for (int a = 0; a < size; ++a)
      for (int b = 0; b < size; ++b) posts[std::size_t(a)].recv_counts[std::size_t(b)] = posts[std::size_t(b)].send_counts[std::size_t(a)];

  bool agree = true;
  const operation op = posts.front().what.op;
  for (int a = 0; a < size; ++a) {
    const post& mine = posts[std::size_t(a)];
    agree = agree && mine.what == posts.front().what;
    if (op == operation::all_gather_v || op == operation::reduce_scatter_v) agree = agree && mine.send_counts == posts.front().send_counts;
    if (op == operation::all_to_all_v)
      for (int b = 0; b < size; ++b) agree = agree && mine.send_counts[std::size_t(b)] == posts[std::size_t(b)].recv_counts[std::size_t(a)];
  }
  const auto found = compare_posts(
      size, "ep", [&](int r) -> const post& { return posts[std::size_t(r)]; }, [](int r) { return 100 + r; });
  holds(found.has_value() != agree);
  if (found) holds(found->culprit >= 0 && found->culprit < size && found->message.find("ranks disagree on") == 0);
}
