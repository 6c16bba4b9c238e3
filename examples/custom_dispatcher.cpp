// A dispatcher of one's own, the simplest there is: every rank of etp x ep adds its tokens to a table of all tokens that is zero elsewhere, takes what
// chose its experts, and the results are added up the same way. It fills the public concept (moe/dispatcher.hpp), four passes and a ticket; with
// it every token rule, folding and balance loss works, and the library's own suite for dispatchers passes (tests/moe/custom_dispatcher_test.cpp).
#include <moefold/comm/thread.hpp>
#include <moefold/moe/moe.hpp>

#include <cstdio>

using namespace moefold;

template <class T, class Comm>
class all_reduce_dispatcher {
 public:
  using value_type = T;
  using weight_type = T;
  static constexpr dispatch_kind kind = dispatch_kind::other;

  struct ticket {
    extent_t first, n, all;                       // this rank's n tokens begin there among all N of the ranks [ep][etp]
    view<std::int32_t> row_of_slot, slot_of_row;  // [N, k] row of the batch, -1: not here; [R], -1: filler
    view<std::int64_t> offsets;                   // [local experts + 1]
    view<T> batch, weight;                        // [R, H], [R]
  };

  all_reduce_dispatcher(extent_t experts, extent_t top_k, Comm& ep, Comm& etp)
      : k_(top_k), own_(experts / ep.size()), sources_(ep.size() * etp.size()), ep_(&ep), etp_(&etp) {}

  template <class Exec, class Arena, class Meanwhile = idle>
  ticket dispatch(Exec e, view<const T> x, const routing<T>& choice, Arena& keep, Meanwhile&& meanwhile = {}) const {
    const extent_t n = x.extent(0), hidden = x.extent(1), rows = choice.padded_rows, me = ep_->rank() * etp_->size() + etp_->rank();
    scratch<Exec> local(e);
    const view<std::int64_t> tokens = local.template take<std::int64_t>(sources_);
    for (extent_t r = 0; r < sources_; ++r) tokens(r) = r == me ? n : 0;
    add_up(e, tokens);
    ticket t{0, n, 0, {}, {}, {}, {}, {}};
    for (extent_t r = 0; r < sources_; t.all += tokens(r++)) t.first += r < me ? tokens(r) : 0;
    meanwhile();  // nothing travels while this rank computes: a better dispatcher would call it between start and wait

    const view<std::int32_t> index = everybody(e, view<const std::int32_t>(choice.expert), t, local);
    for (std::int32_t& expert : index) {
      const extent_t here = expert - ep_->rank() * own_;
      expert = here >= 0 && here < own_ ? std::int32_t(here) : -1;
    }
    const view<std::int64_t> counts = local.template take<std::int64_t>(own_);
    t.row_of_slot = keep.template take<std::int32_t>(t.all, k_);
    t.slot_of_row = keep.template take<std::int32_t>(rows < 0 ? t.all * k_ : own_ * sources_ * rows);
    if (rows < 0)
      t.slot_of_row = t.slot_of_row.rows(0, build_permutation(e, index, own_, counts.span(), t.row_of_slot, t.slot_of_row));
    else
      build_padded_permutation(e, index, own_, sources_, rows, counts.span(), t.row_of_slot, t.slot_of_row);
    t.offsets = keep.template take<std::int64_t>(own_ + 1);
    t.offsets(0) = 0;
    for (extent_t l = 0; l < own_; ++l) t.offsets(l + 1) = t.offsets(l) + (rows < 0 ? counts(l) : sources_ * rows);
    t.batch = keep.template take<T>(t.slot_of_row.extent(0), hidden);
    t.weight = keep.template take<T>(t.slot_of_row.extent(0));
    permute_rows(e, everybody(e, x, t, local), t.slot_of_row.span(), k_, t.batch);
    permute_rows(e, everybody(e, view<const T>(choice.weight), t, local).as({t.all * k_}), t.slot_of_row.span(), 1, t.weight);
    return t;
  }
  template <class Exec>
  void combine(Exec e, view<const T> y_batch, view<T> y, const ticket& t) const {
    scratch<Exec> local(e);
    const view<T> all = local.template take<T>(t.all, y.extent(1));
    combine_rows(e, y_batch, t.row_of_slot, all);
    add_up(e, all);
    copy(e, all.rows(t.first, t.n), y);
  }
  template <class Exec, class Meanwhile = idle>
  void combine_backward(Exec e, view<const T> dy, view<T> dy_batch, const ticket& t, Meanwhile&& meanwhile = {}) const {
    scratch<Exec> local(e);
    meanwhile();
    permute_rows(e, everybody(e, dy, t, local), t.slot_of_row.span(), k_, dy_batch);
  }
  template <class Exec>
  void dispatch_backward(Exec e, view<const T> dbatch, view<const T> dweight, view<T> dx, view<T> dchoice, const ticket& t) const {
    combine(e, dbatch, dx, t);
    scratch<Exec> local(e);
    const view<T> all = local.template take<T>(t.all, k_);
    for (std::size_t i = 0; i < all.size(); ++i) all[i] = t.row_of_slot[i] < 0 ? T(0) : dweight[std::size_t(t.row_of_slot[i])];
    add_up(e, all);
    copy(e, all.rows(t.first, t.n), dchoice);
  }

 private:
  template <class Exec, class U>
  void add_up(Exec e, view<U> data) const {
    for (Comm* comm : {etp_, ep_}) comm->all_reduce(e, data.span(), data.span(), sum{}).wait(e);
  }
  template <class Exec, class U>
  view<U> everybody(Exec e, view<const U> rows, const ticket& t, scratch<Exec>& local) const {
    const view<U> all = local.template take<U>(t.all, rows.extent(1));
    fill(e, all, U(0));
    copy(e, rows, all.rows(t.first, t.n));
    add_up(e, all);
    return all;
  }
  extent_t k_, own_, sources_;
  Comm *ep_, *etp_;
};

int main() {
  const auto rank = [](thread_comm& world) {  // ep 2 x etp 2, 8 experts, top-2; the experts double their rows, shared by the two etp ranks
    thread_comm ep = world.split(world.rank() % 2, world.rank(), "ep"), etp = world.split(world.rank() / 2, world.rank(), "etp");
    const all_reduce_dispatcher<float, thread_comm> dispatcher(8, 2, ep, etp);
    static_assert(moefold::dispatcher<decltype(dispatcher), host_exec>);
    tensor<float> x({3, 4}, 1.f + float(world.rank())), y({3, 4}), weight({3, 2}, 0.5f);
    tensor<std::int32_t> expert({3, 2});
    for (std::int32_t i = 0; i < 6; ++i) expert[std::size_t(i)] = (world.rank() + 3 * i) % 8;
    host_context context;
    arena keep;
    const auto ticket = dispatcher.dispatch(host_exec(context), x.view(), {expert, weight}, keep);
    for (std::size_t i = 0; i < ticket.batch.size(); ++i) ticket.batch[i] *= ticket.weight[i / 4];
    dispatcher.combine(host_exec(context), ticket.batch, y.view(), ticket);
    std::printf("rank %d: %d rows at its experts; token 0 comes back as %g, sent %g\n", world.rank(), int(ticket.batch.extent(0)), y[0],
                x[0]);
    require(y[0] == 2 * x[0], "the experts' shares do not add up");
  };
  return run_threads(4, rank), 0;
}
