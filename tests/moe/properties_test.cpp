// What holds for every routing, on 10^5 random ones: tokens and probability are conserved, the order is stable, each row has one owner, and what one rank
// sends is what the other expects (the communicator compares every count); on ranks that see each other's memory and on ranks that do not. Experts are the identity, so that y must be sum over kept slots of p x.
#include <moefold/comm/thread.hpp>
#include <moefold/core/rng.hpp>
#include <moefold/mesh/group.hpp>
#include <moefold/moe/all_gather.hpp>
#include <moefold/moe/all_to_all.hpp>
#include <moefold/tensor/tensor.hpp>

#include <doctest/doctest.h>
#include "../support/packed_comm.hpp"

#include <algorithm>
#include <atomic>
#include <cstdio>

using namespace moefold;

namespace {

constexpr extent_t hidden = 2, most_tokens = 12;

/// One routing, a pure function of its seed: every rank can see all of it.
struct random_routing {
  extent_t experts, k;
  random_stream draw;

  random_routing(std::uint64_t seed, extent_t ep) : experts(0), k(0), draw(seed, "routing") {
    experts = ep * (1 + extent_t(draw.bits(0) % 4));
    k = 1 + extent_t(draw.bits(1) % std::uint64_t(std::min<extent_t>(experts, 4)));
  }
  extent_t tokens(extent_t rank) const { return extent_t(draw.bits(10 + std::uint64_t(rank)) % (most_tokens + 1)); }
  /// Distinct experts, now and then dropped.
  std::int32_t expert(extent_t rank, extent_t token, extent_t slot) const {
    const std::uint64_t at = 100 + std::uint64_t((rank * most_tokens + token) * 8);
    const extent_t start = extent_t(draw.bits(at) % std::uint64_t(experts)), step = draw.bits(at) % 7 == 0 ? 0 : 1;
    if (draw.bits(at + 1 + std::uint64_t(slot)) % 11 == 0) return -1;
    return std::int32_t((start + (step == 0 ? experts - slot : slot)) % experts);
  }
  static double weight(extent_t rank, extent_t token, extent_t slot) { return 1 + double((rank * most_tokens + token) * 8 + slot); }
};

template <class Dispatcher, class Comm>
const char* check(const random_routing& r, Comm& ep, Comm& etp, const extents& mesh, extent_t rank, host_exec e, arena& keep) {
  const extent_t n = r.tokens(rank), own = r.experts / ep.size(), first = ep.rank() * own;
  scratch<host_exec> local(e);
  const view<double> x = local.take<double>(n, hidden), y = local.take<double>(n, hidden), weight = local.take<double>(n, r.k);
  const view<std::int32_t> expert = local.take<std::int32_t>(n, r.k);
  for (extent_t t = 0; t < n; ++t) {
    x(t, 0) = double(rank * most_tokens + t), x(t, 1) = 1;
    for (extent_t s = 0; s < r.k; ++s) expert(t, s) = r.expert(rank, t, s), weight(t, s) = r.weight(rank, t, s);
  }
  keep.clear();
  const Dispatcher dispatcher(r.experts, r.k, ep, etp);
  const auto ticket = dispatcher.dispatch(e, view<const double>(x), routing<double>{expert, weight}, keep);
  extent_t row = 0;
  for (extent_t expert_here = first; expert_here < first + own; ++expert_here) {
    if (ticket.offsets(expert_here - first) != row) return "offsets do not say where an expert begins";
    for (extent_t p = 0; p < ep.size(); ++p)
      for (extent_t q = 0; q < etp.size(); ++q) {
        const extent_t source = group_of(mesh, axis_id::etp, group_of(mesh, axis_id::ep, rank)[p])[q];
        for (extent_t t = 0; t < r.tokens(source); ++t)
          for (extent_t s = 0; s < r.k; ++s) {
            if (r.expert(source, t, s) != expert_here) continue;
            if (row >= ticket.batch.extent(0)) return "a row is missing";
            if (ticket.batch(row, 0) != double(source * most_tokens + t)) return "a row is not the one whose turn it is";
            if (ticket.weight(row) != r.weight(source, t, s)) return "a row has another pair's weight";
            ++row;
          }
      }
  }
  if (row != ticket.batch.extent(0)) return "there are more rows than pairs";
  const view<double> out = local.take<double>(ticket.batch.extent(0), hidden);
  for (extent_t i = 0; i < row; ++i)
    for (extent_t h = 0; h < hidden; ++h) out(i, h) = etp.rank() == 0 ? ticket.weight(i) * ticket.batch(i, h) : 0;
  dispatcher.combine(e, view<const double>(out), y, ticket);
  for (extent_t t = 0; t < n; ++t) {
    double right = 0;
    for (extent_t s = 0; s < r.k; ++s) right += expert(t, s) >= 0 ? weight(t, s) : 0;
    if (y(t, 1) != right) return "probability is lost or made";
    if (y(t, 0) != right * x(t, 0)) return "a token got another token's result";
  }
  return nullptr;
}

template <class Comm>
void check_many(extent_t ep_ranks, extent_t etp_ranks, std::uint64_t from, std::uint64_t count) {
  const extents mesh{{axis_id::etp, etp_ranks}, {axis_id::ep, ep_ranks}};
  std::atomic<const char*> wrong{nullptr};
  std::atomic<std::uint64_t> at{0};
  run_threads(int(mesh.ranks()), [&](thread_comm& threads) {
    Comm world(std::move(threads));
    const extent_t rank = world.rank();
    const auto split = [&](axis_id axis) {
      return world.split(int(group_index(mesh, axis, rank)), int(group_of(mesh, axis, rank).index_of(rank)), name_of(axis));
    };
    Comm ep = split(axis_id::ep), etp = split(axis_id::etp);
    host_context context;
    const host_exec e(context);
    arena keep;
    for (std::uint64_t seed = from; seed < from + count; ++seed) {
      const random_routing r(seed, ep_ranks);
      const char* said = seed % 2 == 0 ? check<all_to_all_dispatcher<double, Comm>>(r, ep, etp, mesh, rank, e, keep)
                                       : check<all_gather_dispatcher<double, Comm>>(r, ep, etp, mesh, rank, e, keep);
      if (said != nullptr) wrong.store(said), at.store(seed);
    }
  });
  CAPTURE(ep_ranks);
  CAPTURE(etp_ranks);
  CAPTURE(at.load());
  CHECK_MESSAGE(wrong.load() == nullptr, std::string(wrong.load() ? wrong.load() : ""));
}

}  // namespace

TEST_SUITE("moe/properties") {
  TEST_CASE("10^5 random routings: nothing is lost, doubled, mixed up or out of order") {
    check_many<thread_comm>(1, 1, 0, 30'000);
    check_many<test::packed_comm>(1, 1, 30'000, 30'000);
    check_many<thread_comm>(2, 1, 60'000, 14'000);
    check_many<test::packed_comm>(2, 1, 74'000, 12'000);
    check_many<thread_comm>(1, 2, 86'000, 5'000);
    check_many<test::packed_comm>(1, 2, 91'000, 4'000);
    check_many<thread_comm>(2, 2, 95'000, 2'000);
    check_many<test::packed_comm>(2, 2, 97'000, 1'000);
    check_many<thread_comm>(4, 1, 98'000, 1'000);
    check_many<test::packed_comm>(4, 1, 99'000, 1'000);
    std::printf("100000 random routings conserved tokens and probability, in order, each row with one owner\n");
  }
}
