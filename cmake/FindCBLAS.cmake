# OpenBLAS with its C interface: target CBLAS::CBLAS. Ranks are threads that multiply at the same time, so its serial flavour will not do:
# built without locks, it hands two callers the same buffer and returns wrong numbers. The check asks the library itself.
find_path(CBLAS_INCLUDE_DIR NAMES cblas.h PATH_SUFFIXES openblas-pthread openblas)
find_library(CBLAS_LIBRARY NAMES openblas PATH_SUFFIXES openblas-pthread openblas)
mark_as_advanced(CBLAS_INCLUDE_DIR CBLAS_LIBRARY)

if(CBLAS_INCLUDE_DIR AND CBLAS_LIBRARY AND NOT DEFINED CBLAS_IS_THREAD_SAFE)
  get_filename_component(folder ${CBLAS_LIBRARY} DIRECTORY)
  file(WRITE ${CMAKE_BINARY_DIR}/CMakeFiles/cblas_flavour.cpp "extern \"C\" int openblas_get_parallel();\n"
                                                              "int main() { return openblas_get_parallel() == 0; }\n")
  if(CMAKE_CROSSCOMPILING)
    set(flavour 0)
  else()
    try_run(flavour compiled ${CMAKE_BINARY_DIR}/CMakeFiles/cblas_flavour ${CMAKE_BINARY_DIR}/CMakeFiles/cblas_flavour.cpp
            LINK_LIBRARIES ${CBLAS_LIBRARY} LINK_OPTIONS -Wl,-rpath,${folder})
  endif()
  if(flavour STREQUAL "0")
    set(CBLAS_IS_THREAD_SAFE TRUE CACHE INTERNAL "the OpenBLAS found may be called from many threads at once")
  else()
    set(CBLAS_WHY "${CBLAS_LIBRARY} is the serial OpenBLAS, which is wrong when several threads call it")
  endif()
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(CBLAS REQUIRED_VARS CBLAS_LIBRARY CBLAS_INCLUDE_DIR CBLAS_IS_THREAD_SAFE
                                  REASON_FAILURE_MESSAGE "${CBLAS_WHY}")
if(CBLAS_FOUND AND NOT TARGET CBLAS::CBLAS)
  add_library(CBLAS::CBLAS UNKNOWN IMPORTED)
  set_target_properties(CBLAS::CBLAS PROPERTIES IMPORTED_LOCATION ${CBLAS_LIBRARY} INTERFACE_INCLUDE_DIRECTORIES ${CBLAS_INCLUDE_DIR})
endif()
