# cmake -DINCLUDE=<...>/include -P check_parsers.cmake: headers that read files do not cast pointers, do not count with them and copy no bytes by hand:
# checkpoint/bytes.hpp does it for them, and checks.
cmake_minimum_required(VERSION 3.25)
set(wrong "")
file(GLOB headers RELATIVE ${INCLUDE}/moefold ${INCLUDE}/moefold/checkpoint/*.hpp ${INCLUDE}/moefold/model/*_file.hpp
     ${INCLUDE}/moefold/train/*_files.hpp ${INCLUDE}/moefold/train/token_*.hpp ${INCLUDE}/moefold/train/cluster_file.hpp ${INCLUDE}/moefold/comm/*_reader.hpp)
list(REMOVE_ITEM headers checkpoint/bytes.hpp)
set(forbidden "reinterpret_cast|const_cast|\\([a-z_0-9: ]+\\*+\\) *[a-z_(&]|(\\.data\\(\\)|\\.begin\\(\\)|\\.get\\(\\)) *[-+[] *[a-z0-9_(]|&[a-z_0-9.]+\\[|memcpy|memmove|mmap")
foreach(header ${headers})
  file(READ ${INCLUDE}/moefold/${header} text)
  string(REGEX REPLACE "//[^\n]*" "" text "${text}")
  string(REGEX MATCHALL "${forbidden}" found "${text}")
  list(REMOVE_DUPLICATES found)
  foreach(what ${found})
    string(APPEND wrong "  ${header}: ${what}\n")
  endforeach()
endforeach()
list(LENGTH headers count)
if(wrong OR count EQUAL 0)
  message(FATAL_ERROR "moefold: of ${count} headers that read files, these touch memory by themselves; use span_at, load, store and text_of of "
                      "checkpoint/bytes.hpp:\n${wrong}")
endif()
message("${count} headers read files through checkpoint/bytes.hpp alone")
