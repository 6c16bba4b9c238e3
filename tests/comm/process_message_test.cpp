#include <moefold/comm/process_message.hpp>

#include <doctest/doctest.h>

using namespace moefold;

TEST_SUITE("comm/process_message") {
  TEST_CASE("A failure arrives as it was sent, and is raised as its class") {
    process_failure f{process_failure::kind::timeout, {3, "cp x dp", operation::all_to_all_v, 17, std::chrono::milliseconds(5), "waited"}};
    detail::message_writer w;
    detail::put(w, f);
    detail::message_reader r(w.bytes());
    const process_failure back = detail::get_failure(r);
    CHECK(back.cause.rank == 3);
    CHECK(back.cause.label == f.cause.label);
    CHECK(back.cause.op == operation::all_to_all_v);
    CHECK(back.cause.seq == 17);
    CHECK(back.cause.elapsed == std::chrono::milliseconds(5));
    CHECK(back.cause.message == "waited");
    CHECK_THROWS_AS(back.raise("text"), timeout);
    CHECK(process_failure::kind_of<peer_failed> == process_failure::kind::peer_failed);
    CHECK(process_failure::kind_of<signature_mismatch> == process_failure::kind::signature_mismatch);
  }
  TEST_CASE("A text that is too long is cut, and every message fits its room") {
    process_failure f{process_failure::kind::peer_failed, {0, "world", operation::barrier, 0, {}, std::string(100000, 'x')}};
    detail::message_writer w;
    w.put(process_message::verdict).put(std::uint64_t(0));
    detail::put(w, f);
    CHECK(w.bytes().size() <= detail::message_writer::most);
    waiting lane;
    lane.missing.assign(100000, 1);
    detail::message_writer both;
    both.put(process_message::waiting).put(std::uint64_t(0)).put(std::uint64_t(0)).put(std::uint32_t(2));
    detail::put(both, lane), detail::put(both, lane);
    CHECK(both.bytes().size() <= detail::message_writer::most);
  }
  TEST_CASE("What a lane waits for arrives as it was sent") {
    waiting lane;
    lane.rank = 2, lane.lane = 1, lane.label = "ep", lane.call = 9, lane.missing = {0, 5};
    lane.what = {operation::reduce, dtype::bf16, "max", 1, 12, 4};
    detail::message_writer w;
    detail::put(w, lane);
    detail::message_reader r(w.bytes());
    const waiting back = detail::get_waiting(r);
    CHECK((back.rank == 2 && back.lane == 1 && back.call == 9));
    CHECK(back.label == lane.label);
    CHECK(back.what == lane.what);
    CHECK(back.missing == lane.missing);
  }
  TEST_CASE("A message that is shorter than it says is an error, not memory read beyond it") {
    process_failure f{process_failure::kind::peer_failed, {0, "world", operation::barrier, 0, {}, "text"}};
    detail::message_writer w;
    detail::put(w, f);
    for (std::size_t bytes = 0; bytes < w.bytes().size(); ++bytes) {
      detail::message_reader r(w.bytes().first(bytes));
      CHECK_THROWS_AS(detail::get_failure(r), transport_error);
    }
  }
}
