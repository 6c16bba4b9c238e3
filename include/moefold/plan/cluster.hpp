#pragma once
// The machines a plan is for, as data: what a GPU computes, holds and moves, and what lies between GPUs. Peaks and bandwidths are those of the vendors'
// public data sheets; what data sheets do not say (efficiencies, latencies) is a prior with its source, or measured by `plan --calibrate`.
//
//            | ---------- node ---------- |            inside: between two GPUs of a node       between: from a GPU to those of other nodes
//   GPU --- GPU --- ... (gpus_per_node)  ===  GPU ...
#include <moefold/core/error.hpp>

#include <algorithm>
#include <array>
#include <span>
#include <string_view>

namespace moefold {

/// A GPU, or a processor that does its work.
struct gpu_spec {
  const char* name = "";
  double bf16_flops = 0;    // dense, per second
  double fp8_flops = 0;     // dense; 0: none
  double hbm_bytes = 0;     // per second
  extent_t memory = 0;      // bytes a process can use
  extent_t processors = 1;  // that work on tiles of a product at the same time: SMs
};

/// One-way traffic of one GPU over a kind of link: t(bytes) = latency * messages + bytes / (bandwidth * bytes / (bytes + half)).
struct link_spec {
  double bandwidth = 0;  // bytes per second that large messages reach
  double latency = 0;    // seconds of one call
  double half = 0;       // bytes at which half of the bandwidth is reached

  constexpr double seconds(double bytes) const { return bytes > 0 ? latency + (bytes + half) / bandwidth : 0; }
};

struct cluster_spec {
  const char* name = "";
  gpu_spec gpu{};
  extent_t gpus_per_node = 1;
  link_spec inside{};     // all GPUs of a node with each other
  link_spec between{};    // one GPU to those of other nodes, each over a network card of its own
  extent_t reserved = 0;  // bytes per GPU: context, communicators, fragmentation
  double mtbf = 0;        // seconds between failures of one GPU (its share of the node included)
  double storage = 0;     // bytes per second and GPU when all save at once
};

}  // namespace moefold
