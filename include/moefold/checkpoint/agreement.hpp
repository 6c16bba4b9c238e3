#pragma once
// One rank's failure is every rank's: after a part of a save or load that each rank does alone, all of them agree how it went, and where one failed all throw
// what the first of them threw, with its rank.
//
//   failure_note mine;
//   mine.attempt([&] { ... this rank's files ... });      never throws; no communicator inside
//   agree(e, comm, mine);                                  collective: throws on all ranks or on none
#include <moefold/checkpoint/bytes.hpp>
#include <moefold/comm/communicator.hpp>

#include <array>
#include <atomic>
#include <chrono>
#include <new>
#include <optional>
#include <string>
#include <thread>
#include <vector>

namespace moefold {

/// How a part of the work went on this rank: well, or the first error of it in a form that travels.
struct failure_note {
  enum class kind : std::int64_t { none, other, config, format, checksum, incomplete, storage };

  kind what = kind::none;
  std::string text;          // of the error
  std::string file;          // it is about
  std::uint64_t number = 0;  // its byte, or errno

  bool failed() const { return what != kind::none; }

  /// Does `work`, unless something failed before.
  template <class Work>
  void attempt(Work&& work) {
    if (failed()) return;
    try {
      work();
    } catch (const checksum_mismatch& e) {
      *this = {kind::checksum, e.what(), e.file(), e.offset()};
    } catch (const incomplete_checkpoint& e) {
      *this = {kind::incomplete, e.what(), e.file(), e.offset()};
    } catch (const file_error& e) {
      *this = {kind::format, e.what(), e.file(), e.offset()};
    } catch (const storage_error& e) {
      *this = {kind::storage, e.what(), e.path(), std::uint64_t(e.code())};
    } catch (const config_error& e) {
      *this = {kind::config, e.what(), {}, 0};
    } catch (const std::bad_alloc&) {
      *this = {kind::other, "moefold: out of memory; give the host more of it, or share the work among more ranks", {}, 0};
    } catch (const std::exception& e) {
      *this = {kind::other, e.what(), {}, 0};
    }
  }

  /// Throws the error again, in its own class.
  [[noreturn]] void raise() const {
    switch (what) {
      case kind::config: throw config_error(text);
      case kind::format: throw format_error(text, file, number);
      case kind::checksum: throw checksum_mismatch(text, file, number);
      case kind::incomplete: throw incomplete_checkpoint(text, file, number);
      case kind::storage: throw storage_error(text, file, int(number));
      default: throw error(text);
    }
  }
};

/// Bytes of rank `root`, of whatever length, to all ranks. Collective.
template <class Comm>
void broadcast_bytes(host_exec e, Comm& comm, std::vector<std::byte>& bytes, int root) {
  std::array<std::int64_t, 1> size{std::int64_t(bytes.size())};
  comm.broadcast(e, std::span<std::int64_t>(size), root).wait(e);
  bytes.resize(std::size_t(size[0]));
  std::vector<std::uint8_t> travelling(bytes.size());
  load_all(bytes, std::span(travelling));
  comm.broadcast(e, std::span(travelling), root).wait(e);
  load_all(std::as_bytes(std::span(travelling)), std::span(bytes));
}

/// Collective: returns where no rank failed; else throws on every rank what the lowest of them met, "rank 3: ..." before it. Moves 32 bytes per rank.
template <class Comm>
void agree(host_exec e, Comm& comm, const failure_note& mine) {
  const std::array<std::int64_t, 4> own{std::int64_t(mine.what), std::int64_t(mine.number), std::int64_t(mine.text.size()),
                                        std::int64_t(mine.file.size())};
  std::vector<std::int64_t> all(4 * std::size_t(comm.size()));
  comm.all_gather(e, std::span<const std::int64_t>(own), std::span<std::int64_t>(all)).wait(e);
  for (int rank = 0; rank < comm.size(); ++rank) {
    const std::span<const std::int64_t> of = std::span(all).subspan(4 * std::size_t(rank), 4);
    if (failure_note::kind(of[0]) == failure_note::kind::none) continue;
    const std::string both = mine.text + mine.file;
    std::vector<std::byte> words(both.size());
    load_all(bytes_of(both), std::span(words));
    broadcast_bytes(e, comm, words, rank);
    const std::string text(text_of(words));
    const std::size_t split = std::size_t(of[2]);
    const std::string said = text.substr(0, split);
    failure_note first{failure_note::kind(of[0]), {}, text.substr(split), std::uint64_t(of[1])};
    first.text = comm.size() == 1 ? said : sentence("moefold: rank ", rank, ": ", said.rfind("moefold: ", 0) == 0 ? said.substr(9) : said);
    first.raise();
  }
}

/// Collective: returns when done() holds on every rank. Asks again and again, so that the deadlines of collectives count no time that a disk takes. Moves 4 bytes
/// per rank and question; the pauses between questions grow to 20 ms.
template <class Comm, class Done>
void await_all(host_exec e, Comm& comm, Done&& done) {
  for (std::chrono::microseconds pause(100);; pause = std::min(2 * pause, std::chrono::microseconds(20'000))) {
    const std::int32_t mine = done() ? 1 : 0;
    std::int32_t ranks = 0;
    comm.all_reduce(e, std::span<const std::int32_t>(&mine, 1), std::span<std::int32_t>(&ranks, 1), sum{}).wait(e);
    if (ranks == comm.size()) return;
    std::this_thread::sleep_for(pause);
  }
}

/// Does `work` on a thread of its own, as failure_note::attempt does it, while the ranks wait for one another as in await_all. Collective; a rank without
/// anything to do gives an empty function. What went wrong stands in `note` afterwards: agree.
template <class Comm, class Work>
void patiently(host_exec e, Comm& comm, failure_note& note, Work&& work) {
  std::atomic<bool> done{false};
  std::optional<std::jthread> thread;
  note.attempt([&] {
    thread.emplace([&] {
      note.attempt(work);
      done = true;
    });
  });
  await_all(e, comm, [&] { return !thread || done; });
}

}  // namespace moefold
