#pragma once
// One matrix product per group of rows, each with its own weight: the experts' linear layers. A group without rows is left untouched:
// its weight is not read and its gradient stays exactly what it was.
//
//   offsets [groups + 1]   group g owns rows offsets[g] .. offsets[g + 1] - 1 of x and y; offsets[0] = 0, offsets[groups] = R
//   x [R, K]   w [G, N, K]   y [R, N]:   y_g = x_g w_g^T     dx_g = dy_g w_g + beta dx_g     dw_g += dy_g^T x_g
#include <moefold/ops/gemm.hpp>

namespace moefold {

namespace detail {

template <class T, class Product>
void for_groups(const char* op, view<const T> w, std::span<const std::int64_t> offsets, extent_t rows, Product product) {
  require(w.rank() == 3, "moefold: ", op, " needs weights [groups, out, in], given ", w.rank(), " extents");
  require_count(op, "offsets (groups + 1)", offsets.size(), w.extent(0) + 1);
  require(offsets[0] == 0 && offsets[offsets.size() - 1] == rows, "moefold: ", op, " needs offsets from 0 to the number of rows ", rows,
          ", given ", offsets[0], " to ", offsets[offsets.size() - 1]);
  for (std::size_t g = 0; g + 1 < offsets.size(); ++g)
    require(offsets[g] <= offsets[g + 1], "moefold: ", op, " needs ascending offsets, given ", offsets[g], " then ", offsets[g + 1],
            " at group ", g);
  for (extent_t g = 0; g < w.extent(0); ++g) {
    const extent_t first = offsets[std::size_t(g)], count = offsets[std::size_t(g) + 1] - first;
    if (count > 0) product(g, first, count);
  }
}

}  // namespace detail

template <class T>
void grouped_gemm_nt(host_exec e, input<T> x, input<T> w, std::span<const std::int64_t> offsets, view<T> y) {
  require_matrix("grouped_gemm_nt", "x", x, rows_of(y), w.extent(2));
  require_matrix("grouped_gemm_nt", "y", y, rows_of(x), w.extent(1));
  detail::for_groups<T>("grouped_gemm_nt", w, offsets, rows_of(x), [&](extent_t g, extent_t first, extent_t count) {
    const extent_t n = w.extent(1), k = w.extent(2);
    detail::gemm_packed(e, false, true, count, n, k, x.data() + first * k, w.data() + g * n * k, accumulate_t<T>(0), y.data() + first * n);
  });
}

template <class T>
void grouped_gemm_nn(host_exec e, input<T> dy, input<T> w, std::span<const std::int64_t> offsets, view<T> dx,
                     std::type_identity_t<T> beta = T(0)) {
  require_matrix("grouped_gemm_nn", "dy", dy, rows_of(dx), w.extent(1));
  require_matrix("grouped_gemm_nn", "dx", dx, rows_of(dy), w.extent(2));
  detail::for_groups<T>("grouped_gemm_nn", w, offsets, rows_of(dy), [&](extent_t g, extent_t first, extent_t count) {
    const extent_t n = w.extent(1), k = w.extent(2);
    detail::gemm_packed(e, false, false, count, k, n, dy.data() + first * n, w.data() + g * n * k, accumulate_t<T>(beta),
                        dx.data() + first * k);
  });
}

template <class T>
void grouped_gemm_tn(host_exec e, input<T> dy, input<T> x, std::span<const std::int64_t> offsets, view<T> dw) {
  require_matrix("grouped_gemm_tn", "dy", dy, rows_of(x), dw.extent(1));
  require_matrix("grouped_gemm_tn", "x", x, rows_of(dy), dw.extent(2));
  detail::for_groups<T>("grouped_gemm_tn", dw, offsets, rows_of(x), [&](extent_t g, extent_t first, extent_t count) {
    const extent_t n = dw.extent(1), k = dw.extent(2);
    detail::gemm_packed(e, true, false, n, k, count, dy.data() + first * n, x.data() + first * k, accumulate_t<T>(1),
                        dw.data() + g * n * k);
  });
}

/// The same with the gradient in a type of its own: it is accumulated there, never rounded to that of x.
template <class X, class D, class G>
  requires(!detail::one_type<X, D, G>)
void grouped_gemm_tn(host_exec e, view<D> dy, view<X> x, std::span<const std::int64_t> offsets, view<G> dw) {
  require_matrix("grouped_gemm_tn", "dy", dy, rows_of(x), dw.extent(1));
  require_matrix("grouped_gemm_tn", "x", x, rows_of(dy), dw.extent(2));
  detail::for_groups<G>("grouped_gemm_tn", dw, offsets, rows_of(x), [&](extent_t g, extent_t first, extent_t count) {
    const extent_t n = dw.extent(1), k = dw.extent(2);
    detail::gemm_packed(e, true, false, n, k, count, dy.data() + first * n, x.data() + first * k, accumulate_t<G>(1),
                        dw.data() + g * n * k);
  });
}

}  // namespace moefold
