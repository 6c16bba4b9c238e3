# NCCL 2.18 or later: target NCCL::nccl, variables NCCL_VERSION, NCCL_INCLUDE_DIR, NCCL_LIBRARY. Looked for in NCCL_ROOT, beside the CUDA Toolkit, on the
# system, and in the Python package nvidia-nccl-cu12 or -cu13, which carries only libnccl.so.2.
#
#   cmake -DNCCL_ROOT=/opt/nccl ...        where nccl.h is in include/ and libnccl in lib/
set(nccl_places ${NCCL_ROOT} $ENV{NCCL_ROOT} ${CUDAToolkit_TARGET_DIR} ${CUDAToolkit_LIBRARY_ROOT} ${CUDAToolkit_ROOT} $ENV{CUDA_HOME}
                /usr/local/cuda)
file(GLOB nccl_wheels $ENV{VIRTUAL_ENV}/lib/python3*/site-packages/nvidia/nccl /usr/local/lib/python3*/*-packages/nvidia/nccl
     /usr/lib/python3*/*-packages/nvidia/nccl $ENV{HOME}/.local/lib/python3*/site-packages/nvidia/nccl)
find_path(NCCL_INCLUDE_DIR NAMES nccl.h HINTS ${nccl_places} ${nccl_wheels} PATH_SUFFIXES include)
find_library(NCCL_LIBRARY NAMES nccl libnccl.so.2 HINTS ${nccl_places} ${nccl_wheels} PATH_SUFFIXES lib lib64)
mark_as_advanced(NCCL_INCLUDE_DIR NCCL_LIBRARY)

if(NCCL_INCLUDE_DIR AND EXISTS ${NCCL_INCLUDE_DIR}/nccl.h)
  set(NCCL_VERSION "")
  foreach(part MAJOR MINOR PATCH)
    file(STRINGS ${NCCL_INCLUDE_DIR}/nccl.h line REGEX "^#define NCCL_${part} +[0-9]+")
    string(REGEX MATCH "[0-9]+" number "${line}")
    string(APPEND NCCL_VERSION ".${number}")
  endforeach()
  string(SUBSTRING "${NCCL_VERSION}" 1 -1 NCCL_VERSION)
endif()
set(nccl_reason "")
if(NCCL_VERSION AND NCCL_VERSION VERSION_LESS 2.18)
  set(nccl_reason "${NCCL_INCLUDE_DIR}/nccl.h is version ${NCCL_VERSION}, and groups need ncclCommSplit of 2.18")
  set(NCCL_INCLUDE_DIR NCCL_INCLUDE_DIR-NOTFOUND)
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(NCCL REQUIRED_VARS NCCL_LIBRARY NCCL_INCLUDE_DIR VERSION_VAR NCCL_VERSION REASON_FAILURE_MESSAGE "${nccl_reason}")
if(NCCL_FOUND AND NOT TARGET NCCL::nccl)
  add_library(NCCL::nccl UNKNOWN IMPORTED)
  set_target_properties(NCCL::nccl PROPERTIES IMPORTED_LOCATION ${NCCL_LIBRARY} INTERFACE_INCLUDE_DIRECTORIES ${NCCL_INCLUDE_DIR})
endif()
