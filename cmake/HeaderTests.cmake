# Every header by g++ and by clang, warnings as errors, and without CUDA on the path: each .hpp alone by one of them, a folder's together by the other;
# both use the same standard library, so that what stands alone with one does with the other. Each .cuh by nvcc.
#
#   headers/<folder>/<compiler>   a CTest entry that names each header of the folder that does not stand alone
#   header_<folder>_<name>.cu     a generated unit for each .cuh without a test of its own, in the object library cuda_headers
find_program(MOEFOLD_GXX NAMES g++-12 g++-13 g++-14 g++)
find_program(MOEFOLD_CLANGXX NAMES clang++-14 clang++)
mark_as_advanced(MOEFOLD_GXX MOEFOLD_CLANGXX)

file(GLOB header_folders CONFIGURE_DEPENDS LIST_DIRECTORIES TRUE RELATIVE ${PROJECT_SOURCE_DIR}/include/moefold
     ${PROJECT_SOURCE_DIR}/include/moefold/*)
list(FILTER header_folders EXCLUDE REGEX "\\.")
set(header_options "")
if(MOEFOLD_HAS_CBLAS)
  get_target_property(cblas_include CBLAS::CBLAS INTERFACE_INCLUDE_DIRECTORIES)
  set(header_options -DMOEFOLD_WITH_CBLAS -isystem ${cblas_include})
endif()
set(alone MOEFOLD_GXX)
if(MOEFOLD_CLANGXX)
  set(alone MOEFOLD_CLANGXX)
endif()
foreach(compiler MOEFOLD_GXX MOEFOLD_CLANGXX)
  if(${compiler})
    set(together ON)
    if(compiler STREQUAL alone)
      set(together OFF)
    endif()
    get_filename_component(short ${${compiler}} NAME)
    foreach(folder ${header_folders})
      add_test(NAME headers/${folder}/${short}
               COMMAND ${CMAKE_COMMAND} -DCOMPILER=${${compiler}} -DINCLUDE=${PROJECT_SOURCE_DIR}/include -DFOLDER=${folder}
                       "-DOPTIONS=${header_options}" -DTOGETHER=${together} -P ${PROJECT_SOURCE_DIR}/cmake/check_headers.cmake)
      set_tests_properties(headers/${folder}/${short} PROPERTIES LABELS headers)
    endforeach()
  endif()
endforeach()

if(MOEFOLD_HAS_CUDA)
  file(GLOB_RECURSE cuda_headers CONFIGURE_DEPENDS RELATIVE ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR}/include/*.cuh)
  if(NOT MOEFOLD_HAS_NCCL)
    list(FILTER cuda_headers EXCLUDE REGEX "/nccl[a-z_]*\\.cuh$")
  endif()
  set(units "")
  foreach(header ${cuda_headers})
    string(REGEX REPLACE "^moefold/(.*)\\.cuh$" "${PROJECT_SOURCE_DIR}/tests/\\1_test.cu" test ${header})
    if(EXISTS ${test})  # it includes its header first
      continue()
    endif()
    string(MAKE_C_IDENTIFIER ${header} unit)
    file(CONFIGURE OUTPUT header_${unit}.cu CONTENT "#include <${header}>\n")
    list(APPEND units ${CMAKE_CURRENT_BINARY_DIR}/header_${unit}.cu)
  endforeach()
  if(units)
    add_library(cuda_headers OBJECT ${units})
    target_link_libraries(cuda_headers PRIVATE moefold::cuda $<$<BOOL:${MOEFOLD_HAS_NCCL}>:moefold::nccl>)
    list(GET CMAKE_CUDA_ARCHITECTURES -1 newest)  # the tests are compiled for all of them
    set_target_properties(cuda_headers PROPERTIES CUDA_ARCHITECTURES "${newest}")
    add_dependencies(cuda_tests cuda_headers)
  endif()
endif()
