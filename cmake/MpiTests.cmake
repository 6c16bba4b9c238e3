# The tests under a real mpirun, over each MPI library that is installed: their cases are compiled once, main.cpp once per library by its own compiler.
#
#   mpi/<library>_{2,3,4,8}   the cases of tests/mpi/cases.cpp with that many processes
#   mpi/<library>_level, _finalised, _handler   what MPI is found as: a thread level that is too low, MPI finalised, the program's own error handler
#   mpi/<library>_killed      a process of the job ends in every way there is; no other is left behind
#   mpi/<library>_soak        more than 2^31 bytes in one call, label soak
if(NOT MOEFOLD_HAS_MPI OR sanitized)  # the libraries' own reports would drown ours; the same code runs over queues in the test comm
  return()
endif()
add_library(moefold_mpi_cases OBJECT ${PROJECT_SOURCE_DIR}/tests/mpi/cases.cpp)
target_link_libraries(moefold_mpi_cases PRIVATE moefold::moefold doctest::doctest)
target_compile_options(moefold_mpi_cases PRIVATE -Wall -Wextra -Wshadow -O0)

function(moefold_mpi_tests library compiler launcher)
  find_program(MOEFOLD_${library}_COMPILER ${compiler})
  find_program(MOEFOLD_${library}_LAUNCHER ${launcher})
  mark_as_advanced(MOEFOLD_${library}_COMPILER MOEFOLD_${library}_LAUNCHER)
  if(NOT MOEFOLD_${library}_COMPILER OR NOT MOEFOLD_${library}_LAUNCHER)
    return()
  endif()
  set(program ${PROJECT_BINARY_DIR}/tests/mpi_${library}_test)
  set(main ${PROJECT_SOURCE_DIR}/tests/mpi/main.cpp)
  get_target_property(doctest_include doctest::doctest INTERFACE_INCLUDE_DIRECTORIES)
  list(REMOVE_ITEM doctest_include /usr/include)  # -isystem would put it before the compiler's own
  set(object ${CMAKE_CURRENT_BINARY_DIR}/mpi_${library}_main.o)
  add_custom_command(
    OUTPUT ${object} DEPENDS ${main} DEPFILE ${object}.d VERBATIM
    COMMAND ${MOEFOLD_${library}_COMPILER} -std=c++20 -O0 -Wall -Wextra -Wshadow -pthread -I ${PROJECT_SOURCE_DIR}/include
            "$<$<BOOL:${doctest_include}>:-isystem$<JOIN:${doctest_include},;-isystem>>" -MD -MF ${object}.d -MT ${object} -c ${main} -o ${object}
    COMMAND_EXPAND_LISTS COMMENT "Building tests/mpi/main.cpp for ${library}")
  add_custom_command(OUTPUT ${program} DEPENDS ${object} $<TARGET_OBJECTS:moefold_mpi_cases> VERBATIM COMMAND_EXPAND_LISTS
                     COMMAND ${MOEFOLD_${library}_COMPILER} -pthread ${object} $<TARGET_OBJECTS:moefold_mpi_cases> -o ${program})
  add_custom_target(mpi_${library}_program ALL DEPENDS ${program})

  set(run ${MOEFOLD_${library}_LAUNCHER} ${ARGN})
  set(names "")
  foreach(size 2 3 4 8)
    add_test(NAME mpi/${library}_${size} COMMAND ${run} -np ${size} ${program} --test-suite=mpi)
    list(APPEND names mpi/${library}_${size})
  endforeach()
  foreach(what level finalised handler)
    add_test(NAME mpi/${library}_${what} COMMAND ${run} -np 2 ${program} ${what})
    set_tests_properties(mpi/${library}_${what} PROPERTIES FAIL_REGULAR_EXPRESSION WRONG)
    list(APPEND names mpi/${library}_${what})
  endforeach()
  add_test(NAME mpi/${library}_killed COMMAND bash ${PROJECT_SOURCE_DIR}/tests/mpi/killed.sh ${library} ${program} ${run})
  add_test(NAME mpi/${library}_soak COMMAND ${run} -np 2 ${program} --test-suite=mpi_large)
  list(APPEND names mpi/${library}_killed mpi/${library}_soak)
  set_tests_properties(${names} PROPERTIES LABELS mpi TIMEOUT 120 PROCESSORS 2)
  set_tests_properties(mpi/${library}_soak PROPERTIES LABELS "mpi;soak" TIMEOUT 600)
endfunction()
moefold_mpi_tests(open_mpi mpicxx.openmpi mpirun.openmpi --allow-run-as-root --oversubscribe)
moefold_mpi_tests(mpich mpicxx.mpich mpirun.mpich)
