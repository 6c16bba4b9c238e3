#pragma once
// The machines a plan is for, as data: what a GPU computes, holds and moves, and what lies between GPUs. Peaks and bandwidths are those of the vendors'
// public data sheets; what data sheets do not say (efficiencies, latencies) is a prior with its source, or measured by `plan --calibrate`.
//
//            | ---------- node ---------- |            inside: between the GPUs of a node       between: from a GPU to those of other nodes
//   GPU --- GPU --- ... (gpus_per_node)  ===  GPU ...
//
//   name          GPU            a node   inside, one way   between, one way
//   dgx-h100      H100 SXM 80GB     8        450 GB/s           50 GB/s       a 400 Gb/s InfiniBand port per GPU
//   dgx-h200      H200 SXM 141GB    8        450 GB/s           50 GB/s
//   dgx-b200      B200 180GB        8        900 GB/s           50 GB/s
//   gb200-nvl72   GB200 186GB      72        900 GB/s           50 GB/s       the node is the NVLink domain: a rack
//   laptop        8 CPU cores       8         10 GB/s            1 GB/s       ranks as threads
#include <moefold/plan/curve.hpp>

#include <algorithm>
#include <array>
#include <span>
#include <string>
#include <string_view>

namespace moefold {

/// A GPU, or a processor that does its work.
struct gpu_spec {
  const char* name = "";
  double bf16_flops = 0;    // dense, per second
  double fp8_flops = 0;     // dense; 0: none
  double hbm_bytes = 0;     // per second
  extent_t memory = 0;      // bytes a process can use, its own context included
  extent_t processors = 1;  // that work on tiles of a product at the same time: SMs
};

/// One-way traffic of one GPU over a kind of link.
struct link_spec {
  double bandwidth = 0;  // bytes per second of the data sheet
  double share = 1;      // of it that large messages reach
  double latency = 0;    // seconds of one call
  double half = 0;       // bytes at which half of the reachable bandwidth is reached
  time_curve curve{};    // measured: takes the place of bandwidth, share and half

  constexpr double rate() const { return bandwidth * share; }
  /// Seconds that `bytes` take over this link, beside the latency of the call.
  constexpr double transfer(double bytes) const { return curve.known() ? curve.at(bytes) - curve.latency() : (bytes + half) / rate(); }
  /// The same link with so many times the bandwidth.
  constexpr link_spec faster(double times) const {
    link_spec link = *this;
    link.bandwidth *= times;
    for (int i = 0; i < curve.points; ++i)
      link.curve.seconds[std::size_t(i)] = curve.latency() + (curve.seconds[std::size_t(i)] - curve.latency()) / times;
    return link;
  }
};

/// What no data sheet says: the shares of the peaks that real kernels reach, and how much communication hides behind computation. All of one cluster, none
/// of one model. Two are fitted, on the four Mixtral rows of arXiv 2504.14960 (bench/plan/paper_bench.cpp); the others are priors.
struct efficiency_spec {
  double gemm = 0.68;       // of the peak, for a product that fills the GPU and has a long inner dimension. Fitted
  double gemm8 = 0.55;      // the same of 8-bit products and their peak; below gemm, since they draw more power and scale their sums
  double grouped = 1;       // of the same again that the products of experts reach, which one kernel makes for all of a rank
  double half_depth = 512;  // inner dimension at which a product reaches half of that
  extent_t tile_rows = 128, tile_columns = 256;                // of the output, per processor and time
  double hbm = 0.80;                                           // of the memory bandwidth, for kernels that stream
  double attention_forward = 0.55, attention_backward = 0.45;  // of the peak, on causal flops (FlashAttention-2 and 3 on H100)
  double launch = 6e-6;                                        // seconds the host needs per kernel
  double hide_tp = 0, hide_cp = 0, hide_ep = 0;                // share of the computation beside it behind which communication hides
  double hide_dp = 0.65;                                       // gradients behind the last backward, weights behind the first forward
  double hide_shards = 0;  // gathered weights and scattered gradients (ZeRO-3) behind the block that works meanwhile. Fitted
  double noise = 0.0075;   // of the step, for each doubling of the GPUs beyond 8: waiting for the slowest
  double fixed = 0.020;    // seconds of a step: data, logging, the host's round trip
};

struct cluster_spec {
  const char* name = "";
  gpu_spec gpu{};
  extent_t gpus_per_node = 1;
  link_spec inside{};   // all GPUs of a node with each other
  link_spec between{};  // one GPU to those of other nodes, each over a network card of its own
  efficiency_spec efficiency{};
  extent_t reserved = 0;  // bytes per GPU: context, communicators, fragmentation
  double mtbf = 0;        // seconds between failures that one GPU causes, its share of the node included
  double storage = 0;     // bytes per second and GPU when all save at once
};

inline constexpr extent_t mebibyte = extent_t{1} << 20, gibibyte = extent_t{1} << 30;

// Memory is what the driver reports of such a card, where we have seen one; else the data sheet's decimal gigabytes.
inline constexpr gpu_spec h100_80gb{"H100 SXM 80GB", 989.5e12, 1979e12, 3.35e12, 81559 * mebibyte, 132};
inline constexpr gpu_spec h200_141gb{"H200 SXM 141GB", 989.5e12, 1979e12, 4.8e12, 143771 * mebibyte, 132};
inline constexpr gpu_spec b200_180gb{"B200 180GB", 2250e12, 4500e12, 7.7e12, 180'000'000'000, 148};
inline constexpr gpu_spec gb200_186gb{"GB200 186GB", 2500e12, 5000e12, 8e12, 186'000'000'000, 152};
inline constexpr gpu_spec laptop_core{"CPU core", 50e9, 0, 5e9, 2 * gibibyte, 1};

// Shares and latencies: NCCL on 8 H100 moves 330 to 370 GB/s of 450 and 40 to 45 of 50 between nodes; a call takes 8 to 15 us inside and 20 to 40 us between.
// Failures: about one interruption per 50,000 GPU hours (Llama 3 405B, arXiv 2407.21783, table 5: 419 unexpected ones on 16,384 GPUs in 54 days).
inline constexpr link_spec nvlink4{450e9, 0.77, 12e-6, 1e6};
inline constexpr link_spec nvlink5{900e9, 0.77, 12e-6, 2e6};
inline constexpr link_spec infiniband_400{50e9, 0.80, 30e-6, 0.5e6};

inline constexpr cluster_spec dgx_h100{.name = "dgx-h100",
                                       .gpu = h100_80gb,
                                       .gpus_per_node = 8,
                                       .inside = nvlink4,
                                       .between = infiniband_400,
                                       .reserved = 5 * gibibyte,
                                       .mtbf = 50000 * 3600.0,
                                       .storage = 0.5e9};
inline constexpr cluster_spec dgx_h200 = [] {
  cluster_spec c = dgx_h100;
  c.name = "dgx-h200", c.gpu = h200_141gb;
  return c;
}();
inline constexpr cluster_spec dgx_b200 = [] {
  cluster_spec c = dgx_h100;
  c.name = "dgx-b200", c.gpu = b200_180gb, c.inside = nvlink5;
  return c;
}();
inline constexpr cluster_spec gb200_nvl72 = [] {
  cluster_spec c = dgx_b200;
  c.name = "gb200-nvl72", c.gpu = gb200_186gb, c.gpus_per_node = 72;
  return c;
}();
/// A processor whose cores are the ranks. Rough on purpose: `plan --calibrate` measures yours.
inline constexpr cluster_spec laptop{
    .name = "laptop",
    .gpu = laptop_core,
    .gpus_per_node = 8,
    .inside = {10e9, 0.5, 5e-6, 64e3},
    .between = {1e9, 0.8, 100e-6, 64e3},
    .efficiency = {.gemm = 0.6, .half_depth = 32, .tile_rows = 8, .tile_columns = 8, .launch = 0.5e-6, .fixed = 1e-3},
    .reserved = 64 * mebibyte,
    .mtbf = 1e7,
    .storage = 0.1e9};

inline constexpr std::array<const cluster_spec*, 5> known_clusters = {&dgx_h100, &dgx_h200, &dgx_b200, &gb200_nvl72, &laptop};

/// A cluster by its name; nullptr where there is none.
constexpr const cluster_spec* find_cluster(std::string_view name) {
  for (const cluster_spec* c : known_clusters)
    if (name == c->name) return c;
  return nullptr;
}

}  // namespace moefold
