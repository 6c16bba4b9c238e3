# One test binary per folder of tests/, made of every *_test.cpp in it and tests/support/main.cpp; CTest runs it under the folder's name.
#
#   tests/<folder>/<header>_test.cpp        test <folder>            -O1, doctest precompiled
#   tests/<folder>/<header>_soak_test.cpp   test <folder>_soak       label soak: long, left out by the default preset
#   tests/<folder>/<header>_test.cu         test <folder>/<header>   one binary each, labels cuda and gpu; skipped where there is no GPU
#
# A new folder or file is found by name; nothing here changes.
add_library(moefold_test_main OBJECT ${PROJECT_SOURCE_DIR}/tests/support/main.cpp)
target_link_libraries(moefold_test_main PUBLIC moefold::moefold doctest::doctest)
target_include_directories(moefold_test_main PUBLIC ${PROJECT_SOURCE_DIR}/tests)
target_compile_options(moefold_test_main PUBLIC -O1 -Wall -Wextra -Wshadow)

file(CONFIGURE OUTPUT precompiled.cpp CONTENT "// Compiled so that doctest's precompiled header exists once, for all test binaries.\n")
add_library(moefold_test_header OBJECT ${CMAKE_CURRENT_BINARY_DIR}/precompiled.cpp)
target_link_libraries(moefold_test_header PRIVATE moefold_test_main)
target_precompile_headers(moefold_test_header PRIVATE <doctest/doctest.h>)

# moefold_test(name sources...): a binary and its CTest entry. A filter that leaves no test case to run is a failure, not a success.
function(moefold_test name)
  add_executable(${name}_test ${ARGN})
  target_link_libraries(${name}_test PRIVATE moefold_test_main)
  set_target_properties(${name}_test PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
  if(name MATCHES "^mapping")  # whole models: optimised, so with a precompiled header of their own
    target_compile_options(${name}_test PRIVATE -O2)
    target_precompile_headers(${name}_test PRIVATE <doctest/doctest.h>)
  else()
    target_precompile_headers(${name}_test REUSE_FROM moefold_test_header)
  endif()
  moefold_test_entry(${name} ${name}_test)
endfunction()

function(moefold_test_entry name target)
  add_test(NAME ${name} COMMAND ${target} ${ARGN} WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
  set_tests_properties(${name} PROPERTIES TIMEOUT 300 FAIL_REGULAR_EXPRESSION "test cases: +0 \\|")
endfunction()

file(GLOB test_files CONFIGURE_DEPENDS RELATIVE ${PROJECT_SOURCE_DIR}/tests ${PROJECT_SOURCE_DIR}/tests/*/*_test.cpp)
set(test_names "")
foreach(file ${test_files})
  get_filename_component(name ${file} DIRECTORY)
  if(file MATCHES "_soak_test\\.cpp$")
    string(APPEND name _soak)
  endif()
  list(APPEND test_names ${name})
  list(APPEND sources_of_${name} ${PROJECT_SOURCE_DIR}/tests/${file})
endforeach()
list(REMOVE_DUPLICATES test_names)
if(CMAKE_CXX_FLAGS MATCHES "-fsanitize")  # one folding is all they run of the mappings
  set(sources_of_mapping ${PROJECT_SOURCE_DIR}/tests/mapping/mapping_test.cpp)
endif()
foreach(name ${test_names})
  moefold_test(${name} ${sources_of_${name}})
  if(name MATCHES "_soak$")
    set_tests_properties(${name} PROPERTIES LABELS soak TIMEOUT 1800)
  elseif(name MATCHES "^(comm|moe)$")
    set_tests_properties(${name} PROPERTIES LABELS sanitize)
  elseif(name STREQUAL "mapping")
    set_tests_properties(${name} PROPERTIES PROCESSORS 2)  # 16 ranks as threads: nothing beside it
    if(CMAKE_CXX_FLAGS MATCHES "-fsanitize")  # ten times slower: one folding
      moefold_test_entry(mapping_one_folding mapping_test "--test-case=*one folding*")
      set_tests_properties(mapping_one_folding PROPERTIES LABELS sanitize TIMEOUT 900 PROCESSORS 2)
    endif()
  endif()
endforeach()

# What the sanitizers run, and what needs nvcc: one target each, so that their presets build nothing else.
add_custom_target(sanitize_tests)
add_custom_target(cuda_tests)
foreach(name comm mapping moe)
  if(TARGET ${name}_test)
    add_dependencies(sanitize_tests ${name}_test)
  endif()
endforeach()

if(MOEFOLD_HAS_CUDA)
  file(GLOB cuda_files CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/tests/*/*_test.cu)
  if(cuda_files)
    add_library(moefold_gpu_test_main OBJECT ${PROJECT_SOURCE_DIR}/tests/support/gpu_main.cu)
    target_link_libraries(moefold_gpu_test_main PUBLIC moefold::cuda doctest::doctest)
    target_include_directories(moefold_gpu_test_main PUBLIC ${PROJECT_SOURCE_DIR}/tests)
  endif()
  foreach(file ${cuda_files})
    string(REGEX REPLACE "^.*/tests/([^/]*)/([^/]*)_test\\.cu$" "\\1/\\2" name ${file})
    string(REPLACE "/" "_" target ${name}_gpu_test)
    add_executable(${target} ${file})
    target_link_libraries(${target} PRIVATE moefold_gpu_test_main)
    set_target_properties(${target} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
    add_dependencies(cuda_tests ${target})
    moefold_test_entry(${name} ${target})
    set_tests_properties(${name} PROPERTIES LABELS "cuda;gpu" SKIP_RETURN_CODE 77 RESOURCE_LOCK gpu)
  endforeach()
endif()
