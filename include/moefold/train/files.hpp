#pragma once
// What a run asks of whoever reads and writes model files and checkpoints. Only an interface: so the code of a run, on the host or a device, knows neither
// JSON nor hashes, and a program compiles them once (train/model_files.hpp has the implementation; programs of one's own may have another).
//
//   published models    require_model, load, write_model, write_gradients        checkpoints    find_save, resume, saver -> begin, ready, finish
// "Collective": every rank of the world calls it, in the same order; what goes wrong on one rank is thrown on all, with one root cause.
#include <moefold/comm/communicator.hpp>
#include <moefold/core/exec.hpp>
#include <moefold/core/model_shape.hpp>
#include <moefold/train/state.hpp>

#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace moefold {

/// The few collectives that files need, over whatever the ranks are. Looks like a communicator to code that needs no more.
class rank_group {
 public:
  struct ticket {
    void wait(host_exec) const {}
  };
  virtual ~rank_group() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  template <class T>
  ticket all_gather(host_exec e, std::span<const T> in, std::span<T> out) {
    gather_bytes(e, bytes_of(in), bytes_of(out));
    return {};
  }
  template <class T>
  ticket broadcast(host_exec e, std::span<T> data, int root) {
    broadcast_bytes(e, bytes_of(data), root);
    return {};
  }
  /// In rank order, as every sum of the host's communicators.
  template <class T, class Reduction>
  ticket all_reduce(host_exec e, std::span<const T> in, std::span<T> out, Reduction) {
    static_assert(std::is_same_v<Reduction, sum> || std::is_same_v<Reduction, max>);
    std::vector<T> all(in.size() * std::size_t(size()));
    all_gather(e, in, std::span<T>(all));
    for (std::size_t i = 0; i < out.size(); ++i) {
      T total = all[i];
      for (std::size_t r = 1; r < std::size_t(size()); ++r) {
        const T next = all[r * out.size() + i];
        total = std::is_same_v<Reduction, sum> ? T(total + next) : std::max(total, next);
      }
      out[i] = total;
    }
    return {};
  }
  template <class T>
  ticket send(host_exec e, std::span<const T> data, int to) {
    send_bytes(e, bytes_of(data), to);
    return {};
  }
  template <class T>
  ticket recv(host_exec e, std::span<T> data, int from) {
    recv_bytes(e, bytes_of(data), from);
    return {};
  }
  ticket barrier(host_exec e) {
    wait_for_all(e);
    return {};
  }

 private:
  template <class T>
  static std::span<const std::uint8_t> bytes_of(std::span<const T> x) {
    return {reinterpret_cast<const std::uint8_t*>(x.data()), x.size_bytes()};
  }
  template <class T>
    requires(!std::is_const_v<T>)
  static std::span<std::uint8_t> bytes_of(std::span<T> x) { return {reinterpret_cast<std::uint8_t*>(x.data()), x.size_bytes()}; }
  virtual void gather_bytes(host_exec e, std::span<const std::uint8_t> in, std::span<std::uint8_t> out) = 0;
  virtual void broadcast_bytes(host_exec e, std::span<std::uint8_t> data, int root) = 0;
  virtual void send_bytes(host_exec e, std::span<const std::uint8_t> data, int to) = 0;
  virtual void recv_bytes(host_exec e, std::span<std::uint8_t> data, int from) = 0;
  virtual void wait_for_all(host_exec e) = 0;
};

/// A communicator as a rank_group; the communicator must outlive it.
template <class Comm>
class group_over final : public rank_group {
 public:
  explicit group_over(Comm& comm) : comm_(comm) {}
  int rank() const override { return comm_.rank(); }
  int size() const override { return comm_.size(); }

 private:
  void gather_bytes(host_exec e, std::span<const std::uint8_t> in, std::span<std::uint8_t> out) override {
    comm_.all_gather(e, in, out).wait(e);
  }
  void broadcast_bytes(host_exec e, std::span<std::uint8_t> data, int root) override { comm_.broadcast(e, data, root).wait(e); }
  void send_bytes(host_exec e, std::span<const std::uint8_t> data, int to) override { comm_.send(e, data, to).wait(e); }
  void recv_bytes(host_exec e, std::span<std::uint8_t> data, int from) override { comm_.recv(e, data, from).wait(e); }
  void wait_for_all(host_exec e) override { comm_.barrier(e).wait(e); }

  Comm& comm_;
};

/// Facts of a run beside its numbers: what it was, for whoever looks into a checkpoint or resumes from it.
using run_notes = std::map<std::string, std::string>;

struct finished_save {
  std::string folder;
  std::string warning{};  // what went wrong once it was complete, known to rank 0; empty: nothing
};

/// Saves the same run again and again. Every rank has one.
class checkpoint_saver {
 public:
  virtual ~checkpoint_saver() = default;
  /// Takes a copy of the state and returns; the writing goes on beside the caller. Collective; not while another save is on its way.
  virtual void begin(host_exec e, rank_group& world, const run_position& position, const run_notes& notes, std::span<state_tensor> owned,
                     std::span<state_array> shared) = 0;
  virtual bool saving() const = 0;  // between begin and finish
  virtual bool ready() const = 0;   // finish would not wait for this rank's writing
  /// Waits, and makes the save the newest one; where a rank failed, throws on all, and the newest save is the one before. Collective.
  virtual finished_save finish(host_exec e, rank_group& world) = 0;
};

/// A complete save, as --resume finds it.
struct found_save {
  std::string folder;
  run_position position;
  run_notes notes;
};

class program_files {
 public:
  virtual ~program_files() = default;
  /// Local. Throws config_error where a model cannot be written into a folder, or gradients into a file, by these names (empty: neither is asked for): said before
  /// a run, not after it.
  virtual void require_outputs(const model_shape& model, const std::string& folder, const std::string& gradients) = 0;
  /// Local. Throws config_error where nothing can be saved into this folder, which is made.
  virtual void require_saves(const std::string& folder) = 0;
  /// Local. Throws config_error unless the folder holds a published model that is exactly `model`; with `dense` one that can become it (model/upcycle.hpp).
  /// Returns in words what will be done.
  virtual std::string require_model(const std::string& folder, const model_shape& model, bool dense) = 0;
  /// Each rank reads the weights that it owns, and no other: the masters' parts of owned_state(). shared: shared_state(). `seed` draws the routers of an upcycled
  /// model. Collective.
  virtual void load(host_exec e, rank_group& world, const std::string& folder, const model_shape& model, bool dense, std::uint64_t seed,
                    std::span<state_tensor> owned, std::span<state_array> shared) = 0;
  /// Writes the model as transformers reads it; nothing is there under the folder's name until it is complete. `like`: the folder it was loaded from, whose
  /// element types, configuration and tokenizer it keeps; empty: none, and weights are written as `stored`. Collective.
  virtual void write_model(host_exec e, rank_group& world, const std::string& folder, const model_shape& model, const std::string& like,
                           dtype stored, std::span<state_tensor> owned, std::span<state_array> shared) = 0;
  /// Gradients under the model's published names, in one file. owned: owned_gradients(). Collective.
  virtual void write_gradients(host_exec e, rank_group& world, const std::string& file, const model_shape& model,
                               std::span<state_tensor> owned) = 0;
  /// Local. `folder`: where a run saves, or one of its saves. Throws config_error where there is none.
  virtual found_save find_save(const std::string& folder) = 0;
  /// Fills the state from a save of any mapping. Collective. Returns the names of shared arrays that the save has not: they stay as they are.
  virtual std::vector<std::string> resume(host_exec e, rank_group& world, const found_save& save, std::span<state_tensor> owned,
                                          std::span<state_array> shared) = 0;
  /// keep: complete saves that stay, the newest ones; 0: all.
  virtual std::unique_ptr<checkpoint_saver> saver(const std::string& folder, int keep) = 0;
};

}  // namespace moefold
