# cmake -DCOMPILER= -DINCLUDE= -DFOLDER= -DOPTIONS= -P check_headers.cmake: compiles each .hpp of a folder alone, and names those that fail.
cmake_minimum_required(VERSION 3.25)
file(GLOB headers RELATIVE ${INCLUDE} ${INCLUDE}/moefold/${FOLDER}/*.hpp)
set(failed "")
foreach(header ${headers})
  execute_process(COMMAND ${COMPILER} -std=c++20 -pthread -Wall -Wextra -Wshadow -Werror ${OPTIONS} -I ${INCLUDE} -fsyntax-only
                          -include ${header} -x c++ /dev/null
                  RESULT_VARIABLE result ERROR_VARIABLE text)
  if(NOT result EQUAL 0)
    list(APPEND failed ${header})
    message("---- ${header} does not stand alone:\n${text}")
  endif()
endforeach()
list(LENGTH headers count)
if(failed)
  message(FATAL_ERROR "moefold: ${failed} must compile alone with ${COMPILER}; include what it uses")
endif()
message("${count} headers of ${FOLDER} stand alone")
