#pragma once
// The CUDA twin of train/calibrate.hpp: the same measurements on devices, in bf16, ranks as threads with a device each. One device has nothing to measure
// between ranks: the links then stay those of its kind.
#include <moefold/comm/thread.cuh>
#include <moefold/ops/activation.cuh>
#include <moefold/ops/elementwise.cuh>
#include <moefold/ops/flash.cuh>
#include <moefold/ops/gemm.cuh>
#include <moefold/ops/grouped_gemm.cuh>
#include <moefold/ops/norm.cuh>
#include <moefold/tensor/copy.cuh>
#include <moefold/train/calibrate.hpp>

namespace moefold {

/// Sizes that fill a device.
inline calibration_options device_calibration() {
  calibration_options options;
  options.product = 4096, options.stream = extent_t{256} << 20;
  options.sequence = 4096, options.heads = 32, options.width = 128;
  options.largest_message = std::size_t{256} << 20;
  return options;
}

namespace detail {

/// The known cluster whose GPU has this name in its data sheet; else one without a peak, which is then measured.
inline cluster_spec cluster_of_device(std::string_view name) {
  struct kind {
    std::string_view part;
    const cluster_spec* cluster;
  };
  const kind kinds[] = {{"H100", &dgx_h100}, {"H200", &dgx_h200}, {"GB200", &gb200_nvl72}, {"B200", &dgx_b200}};
  for (const kind& k : kinds)
    if (name.find(k.part) != std::string_view::npos) return *k.cluster;
  cluster_spec unknown = dgx_h100;
  unknown.gpu = {};
  return unknown;
}

}  // namespace detail

/// The devices of this process, ranks as threads. Several ranks may share a device: what they measure between them is then that device's memory.
/// Throws config_error where there is no device.
inline calibration calibrate_devices(const calibration_options& options = device_calibration(), const calibration_progress& say = {}) {
  int devices = 0;
  const cudaError_t found_devices = cudaGetDeviceCount(&devices);
  require<config_error>(found_devices == cudaSuccess && devices > 0, "moefold: no CUDA device was found to calibrate (",
                        found_devices == cudaSuccess ? "none is visible" : cudaGetErrorString(found_devices),
                        "); calibrate the host, or use a machine with an NVIDIA GPU and its driver");
  const int ranks = options.ranks > 0 ? options.ranks : devices;
  cudaDeviceProp properties{};
  cuda_check(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties of device 0");
  const auto begin = detail::calibration_clock::now();
  measurements found;
  run_device_threads(ranks, [&](device_thread_comm& world) {
    cuda_context context(world.rank() % devices);
    host_context beside;
    const bool first = world.rank() == 0;
    measurements own =
        detail::calibrator<bf16, cuda_exec, device_thread_comm>(cuda_exec(context), host_exec(beside), world, options, say).run();
    if (first) found = std::move(own);
  });
  const std::string name(properties.name);
  cluster_spec base = detail::cluster_of_device(name);
  base.gpu.memory = extent_t(properties.totalGlobalMem), base.gpu.processors = properties.multiProcessorCount;
  if (!found.calls.empty()) base.gpus_per_node = ranks;
  const cluster_spec links = base;
  cluster_spec measured = fitted(base, found);
  measured.between = links.between;  // another node was not asked
  const std::string note = sentence("measured by moefold on ", name, ", ", ranks, ranks == 1 ? " rank" : " ranks", " as threads, bf16; ",
                                    found.calls.empty() ? "links, " : "links between nodes, ", "overlap, failures and storage are priors");
  const double seconds = std::chrono::duration<double>(detail::calibration_clock::now() - begin).count();
  return {stored_cluster(measured, sentence("measured-", measured.name), name, note), std::move(found), seconds};
}

}  // namespace moefold
