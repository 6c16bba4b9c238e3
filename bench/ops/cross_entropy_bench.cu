// Vocabulary-parallel cross-entropy on the device, in the type in which the model keeps logits, beside a copy of as many bytes: one pass reads the logits,
// one reads them again and writes the gradient in their place. Gate 0.7.
#include <moefold/ops/cross_entropy.cuh>

#include "../support/device_pairs.cuh"

namespace {

using namespace moefold;
using bench::beside_copy;
using bench::device_tensor;
using bench::numbers;
using bench::sized;

/// The loss of one tp rank: one pass over the logits for its numbers, one that makes the gradient in place.
auto cross_entropy_pair(extent_t tokens, extent_t vocabulary) {
  return [=](cuda_exec e) {
    struct data {
      device_tensor<float> logits, parts, stats, loss;
      device_tensor<std::int32_t> labels;
    };
    auto d = std::make_shared<data>(data{numbers<float>(e, {tokens, vocabulary}, 1, 4), device_tensor<float>({1, tokens, 3}),
                                         device_tensor<float>({tokens, 3}), device_tensor<float>({tokens}),
                                         bench::uploaded(e, std::vector<std::int32_t>(std::size_t(tokens), 7))});
    return beside_copy(e, 12.0 * double(tokens * vocabulary), [=] {
      const std::span<const std::int32_t> labels = std::as_const(d->labels).view().span();
      cross_entropy_local(e, d->logits.view(), labels, 0, vocabulary, d->parts.view().as({tokens, 3}));
      cross_entropy_merge(e, d->parts, d->stats.view(), d->loss);
      cross_entropy_backward(e, d->logits.view(), labels, 0, vocabulary, d->stats);
    });
  };
}

}  // namespace

int main(int argc, char** argv) {
  return bench::run_on_device(argc, argv, [] {
    bench::add_device_pair("cross_entropy/8192x32000", 0.7, cross_entropy_pair(sized(8192), sized(32000)));
    bench::add_device_pair("cross_entropy/2048x152064", 0.7, cross_entropy_pair(sized(2048), sized(152064)));
  });
}
