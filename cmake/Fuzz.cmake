# Fuzz targets, found by name: each parser of foreign files is given inputs that libFuzzer makes, with the sanitizers on, in bounded time and memory.
#
#   tests/fuzz/<parser>_fuzz.cpp     test fuzz/<parser>        10 s
#                                    test fuzz/<parser>_soak   60 s, label soak
#
# They are built by clang whatever compiler builds the rest; without a clang that has libFuzzer they are left out. What a run finds stays in the build
# tree: fuzz/<parser>/corpus is where the next one begins, fuzz/<parser>/crash-* an input that must be mended and becomes a test.
file(GLOB fuzz_files CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/tests/fuzz/*_fuzz.cpp)
set(fuzz_options -std=c++20 -O1 -gline-tables-only -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -Wall -Wextra)

function(moefold_find_fuzzer)
  if(DEFINED MOEFOLD_FUZZER_OF AND MOEFOLD_FUZZER_OF STREQUAL "${MOEFOLD_CLANGXX}")
    return()
  endif()
  set(works 1)
  if(MOEFOLD_CLANGXX)
    file(WRITE ${PROJECT_BINARY_DIR}/fuzz/probe.cpp "extern \"C\" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }\n")
    execute_process(COMMAND ${MOEFOLD_CLANGXX} ${fuzz_options} ${PROJECT_BINARY_DIR}/fuzz/probe.cpp -o ${PROJECT_BINARY_DIR}/fuzz/probe
                    RESULT_VARIABLE works OUTPUT_QUIET ERROR_QUIET)
  endif()
  if(works EQUAL 0)
    set(MOEFOLD_HAS_FUZZER TRUE CACHE INTERNAL "")
  else()
    set(MOEFOLD_HAS_FUZZER FALSE CACHE INTERNAL "")
    message(STATUS "moefold: no clang with libFuzzer, the tests fuzz/* are left out; install clang-14")
  endif()
  set(MOEFOLD_FUZZER_OF "${MOEFOLD_CLANGXX}" CACHE INTERNAL "")
endfunction()

if(NOT CMAKE_CXX_FLAGS MATCHES "-fsanitize")  # those presets run other tests
  moefold_find_fuzzer()
endif()
if(MOEFOLD_HAS_FUZZER AND NOT CMAKE_CXX_FLAGS MATCHES "-fsanitize")
  get_target_property(json_include nlohmann_json::nlohmann_json INTERFACE_INCLUDE_DIRECTORIES)
  set(fuzz_programs "")
  foreach(file ${fuzz_files})
    string(REGEX REPLACE "^.*/([^/]*)_fuzz\\.cpp$" "\\1" name ${file})
    set(folder ${PROJECT_BINARY_DIR}/fuzz/${name})
    file(MAKE_DIRECTORY ${folder}/corpus)
    set(program ${folder}/${name}_fuzz)
    add_custom_command(
      OUTPUT ${program}
      COMMAND ${MOEFOLD_CLANGXX} ${fuzz_options} -I ${PROJECT_SOURCE_DIR}/include -I ${PROJECT_SOURCE_DIR}/tests -isystem ${json_include}
              -isystem ${MOEFOLD_XXHASH_INCLUDE} -pthread -MD -MT fuzz/${name}/${name}_fuzz -MF ${program}.d ${file} -o ${program}
      DEPENDS ${file}
      DEPFILE ${program}.d
      COMMENT "Building the fuzz target ${name}"
      VERBATIM)
    list(APPEND fuzz_programs ${program})
    # Inputs of at most 64 KiB. In time: 1 s of the processor (tests/fuzz/fuzz.hpp), far more than a linear parser takes; 60 s by the clock means it hangs.
    # In memory: about 100 MiB is what the fuzzer and the sanitizer hold, and 64 MiB above it.
    foreach(run "\;10" "_soak\;60")
      list(GET run 0 suffix)
      list(GET run 1 seconds)
      add_test(NAME fuzz/${name}${suffix}
               COMMAND ${program} -max_total_time=${seconds} -timeout=60 -rss_limit_mb=192 -malloc_limit_mb=64 -max_len=65536
                       -artifact_prefix=${folder}/ -print_final_stats=1 ${folder}/corpus)
      set_tests_properties(fuzz/${name}${suffix} PROPERTIES TIMEOUT 300 ENVIRONMENT "ASAN_OPTIONS=quarantine_size_mb=8:detect_leaks=1"
                                                            RESOURCE_LOCK fuzz_${name})
    endforeach()
    set_tests_properties(fuzz/${name}_soak PROPERTIES LABELS soak)
  endforeach()
  add_custom_target(fuzz ALL DEPENDS ${fuzz_programs})
endif()
