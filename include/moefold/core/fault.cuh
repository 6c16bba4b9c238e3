#pragma once
// How a kernel complains of its input. A kernel cannot throw: it notes the first complaint in memory that the host reads too, goes on with something
// harmless, and the next time the host waits for the stream the complaint is thrown as moefold::error.
//
//   kernel:   if (id < 0 || id >= limit) return report(faults, fault_kind::token, place, id, limit);
//   host:     e.wait()  ->  "moefold: token 70 is outside the vocabulary of 64 (at place 12); use tokens from 0 to below it"
#include <moefold/core/memory.cuh>

#include <cstdint>

namespace moefold {

enum class fault_kind : int { none, token, label, expert, row, slot, capacity, offset, position };

/// The first complaint since the host last looked; `kind` is written last.
struct device_fault {
  int claimed = 0;
  int kind = 0;  // fault_kind
  std::int64_t place = 0, given = 0, limit = 0;
};

#if defined(__CUDACC__) || defined(MOEFOLD_EMULATED)
/// Notes a complaint, if it is the first: `given` stands at `place`, and must be below `limit`.
__device__ inline void report(device_fault* to, fault_kind kind, std::int64_t place, std::int64_t given, std::int64_t limit) {
  if (atomicCAS(&to->claimed, 0, 1) != 0) return;
  to->place = place, to->given = given, to->limit = limit;
  __threadfence_system();
  *static_cast<volatile int*>(&to->kind) = int(kind);
}
#endif

/// Owns the place where kernels of one rank complain: pinned host memory, which the device writes and the host reads without a copy.
class device_faults {
 public:
  device_faults() {
    void* block = nullptr;
    cuda_check(cudaHostAlloc(&block, sizeof(device_fault), cudaHostAllocMapped), "cudaHostAlloc of a fault record");
    fault_ = new (block) device_fault;
    cuda_check(cudaHostGetDevicePointer(&block, fault_, 0), "cudaHostGetDevicePointer of a fault record");
    on_device_ = static_cast<device_fault*>(block);
  }
  ~device_faults() { (void)cudaFreeHost(fault_); }
  device_faults(const device_faults&) = delete;
  device_faults& operator=(const device_faults&) = delete;

  device_fault* device() const { return on_device_; }

  /// Throws the complaint, if there is one, and forgets it. Call it when the stream has been waited for.
  void check() {
    const int kind = *static_cast<volatile int*>(&fault_->kind);
    if (kind == 0) return;
    const device_fault f = *fault_;
    *fault_ = {};
    switch (fault_kind(kind)) {
      case fault_kind::token:
        require(false, "moefold: token ", f.given, " is outside the vocabulary of ", f.limit, " (at place ", f.place,
                "); use tokens from 0 to below it");
        break;
      case fault_kind::label:
        require(false, "moefold: label ", f.given, " is outside the vocabulary of ", f.limit, " (at place ", f.place,
                "); use labels below it, negative to ignore");
        break;
      case fault_kind::expert:
        require(false, "moefold: token ", f.place, " chose expert ", f.given, ", of ", f.limit,
                "; experts are numbered from 0, -1 means dropped");
        break;
      case fault_kind::row: require(false, "moefold: place ", f.place, " asks for row ", f.given, " of ", f.limit); break;
      case fault_kind::slot: require(false, "moefold: row ", f.place, " names slot ", f.given, " of ", f.limit); break;
      case fault_kind::offset:
        require(false, "moefold: offset ", f.given, " of group ", f.place, " does not ascend from 0 to the ", f.limit,
                " rows; pass groups + 1 offsets, the last of them the number of rows");
        break;
      case fault_kind::position:
        require(false, "moefold: rope needs positions of at least 0, given ", f.given, " at index ", f.place);
        break;
      default:
        require(false, "moefold: expert ", f.place, " has ", f.given, " rows, more than the ", f.limit,
                " that padding gives it; drop what exceeds the capacity first");
    }
  }

 private:
  device_fault* fault_ = nullptr;
  device_fault* on_device_ = nullptr;
};

}  // namespace moefold
