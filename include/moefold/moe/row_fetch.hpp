#pragma once
// Rows between the ranks of ep without packing, where a communicator lets ranks read their peers' memory (comm: fetch_v). On the way to the experts the
// receiver takes each row from where its token lies; on the way back a token's rank reads its k rows where the experts left them.
//
//   fetch_rows       put(row, token's row or null, weight) for every row that comes here            all_to_all_v of the rows, seen by its traffic
//   sum_from_peers   take(token, row_of, weight_of): row_of(j) points at the row of slot j          the same, backwards
//   ticket           expert [n, k], counts [E], row_of_slot [n, k], slot_of_row, sent and received [EP], first [local experts, EP]: moe/all_to_all.hpp
#include <moefold/moe/dispatcher.hpp>
#include <moefold/ops/row_copy.hpp>

namespace moefold {

/// What a rank shows of its tokens on the way to the experts.
template <class T>
struct row_way_there {
  const T* rows;                  // [n, width]
  const accumulate_t<T>* weight;  // [n, k], or null
  extent_t width;
  const std::int32_t* slot_of_row = nullptr;  // both of the ticket
  const std::int64_t* counts = nullptr;       // [E]
};
/// And of its experts' rows on the way back.
template <class T>
struct row_way_back {
  const T* rows;
  const accumulate_t<T>* weight;  // of row r at r * weight_stride, or null
  const std::int64_t* first;      // [local experts, EP], of the ticket
  extent_t stride, weight_stride;
};

/// put(row, from, weight) for every row that comes here; from is null for a filler. Counted as rows of `width` elements. Calls meanwhile() between
/// start and wait. Collective over ep.
template <class T, class Exec, class Comm, class Ticket, class Put, class Meanwhile>
void fetch_rows(Exec e, Comm& ep, const Ticket& t, extent_t width, row_way_there<T> mine, scratch<Exec>& local, Put put,
                Meanwhile&& meanwhile) {
  mine.slot_of_row = t.slot_of_row.data(), mine.counts = t.counts.data();
  const auto sent = elements_of_rows(t.sent, width, local), received = elements_of_rows(t.received, width, local);
  const auto travelling = ep.template fetch_v<T>(e, mine, sent, received, [&](auto&& peer) {
    const extent_t ranks = ep.size(), own = t.counts.extent(0) / ranks, me = ep.rank(), k = t.row_of_slot.extent(1);
    for (extent_t step = 0; step < ranks; ++step) {  // itself first, then its right neighbours: no two ranks start at the same peer
      const extent_t source = (me + step) % ranks;
      const row_way_there<T>& from = peer(int(source));
      const std::int32_t* slot = from.slot_of_row + std::accumulate(from.counts, from.counts + me * own, std::int64_t{0});
      for (extent_t x = 0; x < own; ++x) {
        const extent_t begin = t.first(x, source), end = begin + from.counts[me * own + x];
        for (extent_t row = begin; row < end; ++row, ++slot)
          if (*slot < 0)
            put(row, static_cast<const T*>(nullptr), accumulate_t<T>(0));
          else
            put(row, from.rows + *slot / k * from.width, from.weight ? from.weight[*slot] : accumulate_t<T>(0));
      }
    }
  });
  meanwhile();
  travelling.wait(e);
}

/// take(token, row_of, weight_of) for every token: row_of(j) and weight_of(j) read the row of slot j in the memory of its expert's rank; null and 0
/// where the pair was dropped. Counted as rows of `width` elements. Collective over ep.
template <class T, class Exec, class Comm, class Ticket, class Take>
void sum_from_peers(Exec e, Comm& ep, const Ticket& t, extent_t width, const row_way_back<T>& mine, scratch<Exec>& local, Take take) {
  const auto sent = elements_of_rows(t.received, width, local), received = elements_of_rows(t.sent, width, local);
  const extent_t ranks = ep.size(), experts = t.counts.extent(0), own = experts / ranks, k = t.row_of_slot.extent(1);
  const view<std::int64_t> shift = local.template take<std::int64_t>(experts);  // from a row here to the row at the expert
  ep.template fetch_v<T>(e, mine, sent, received, [&](auto&& peer) {
      for (extent_t x = 0, before = 0; x < experts; before += t.counts(x++))
        shift(x) = peer(int(x / own)).first[x % own * ranks + ep.rank()] - before;
      for (extent_t token = 0; token < t.row_of_slot.extent(0); ++token) {
        const std::int32_t* const row = t.row_of_slot.data() + token * k;
        const std::int32_t* const expert = t.expert.data() + token * k;
        const auto row_of = [&](extent_t j) -> const T* {
          if (row[j] < 0) return nullptr;
          const row_way_back<T>& from = peer(int(expert[j] / own));
          return from.rows + (row[j] + shift(expert[j])) * from.stride;
        };
        const auto weight_of = [&](extent_t j) {
          if (row[j] < 0) return accumulate_t<T>(0);
          const row_way_back<T>& from = peer(int(expert[j] / own));
          return from.weight[(row[j] + shift(expert[j])) * from.weight_stride];
        };
        take(token, row_of, weight_of);
      }
    }).wait(e);
}

}  // namespace moefold
