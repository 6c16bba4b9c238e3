# cmake -DINCLUDE=<...>/include -P check_floors.cmake: a folder includes its own and lower floors, never a sibling; a .hpp never a .cuh.
#
#                 7  train  ------------------------>  plan      plan sees core, mesh, inventory and schedule
#            6  pipeline | optim                        :        comm sees core and mesh
#                 5  model                              :        ops sees core and tensor
#            4  attention | moe                         :        inventory sees core and mesh
#            3  layers | checkpoint                     :        schedule sees core
#   2  comm  |  ops  |  inventory | schedule
#   1  mesh          |  tensor
#                 0  core
cmake_minimum_required(VERSION 3.25)
set(floors "core" "mesh tensor" "comm ops inventory schedule" "layers checkpoint" "attention moe" "model" "pipeline optim" "train")
set(below "")
foreach(floor ${floors})
  separate_arguments(folders UNIX_COMMAND "${floor}")
  foreach(folder ${folders})
    set(${folder}_sees ${folder} ${below})
  endforeach()
  list(APPEND below ${folders})
endforeach()
set(plan_sees plan core mesh inventory schedule)
list(APPEND train_sees plan)
set(comm_sees comm core mesh)
set(ops_sees ops core tensor)
set(inventory_sees inventory core mesh)
set(schedule_sees schedule core)

set(wrong "")
file(GLOB headers RELATIVE ${INCLUDE}/moefold ${INCLUDE}/moefold/*/*.hpp ${INCLUDE}/moefold/*/*.cuh)
foreach(header ${headers})
  get_filename_component(folder ${header} DIRECTORY)
  if(NOT DEFINED ${folder}_sees)
    string(APPEND wrong "  ${header}: the folder ${folder} is on no floor\n")
  endif()
  file(STRINGS ${INCLUDE}/moefold/${header} lines REGEX "^[ \t]*#[ \t]*include[ \t]*[<\"]")
  foreach(line ${lines})
    string(REGEX REPLACE "^[^<\"]*[<\"]([^>\"]*).*$" "\\1" target ${line})
    string(REGEX REPLACE "^moefold/([^/]*)/.*$" "\\1" other ${target})
    if(line MATCHES "\"")
      string(APPEND wrong "  ${header} includes \"${target}\": write <moefold/folder/name.hpp>\n")
    elseif(target MATCHES "^moefold/" AND NOT other IN_LIST ${folder}_sees)
      string(REPLACE ";" ", " sees "${${folder}_sees}")
      string(APPEND wrong "  ${header} includes ${target}: ${folder} sees only ${sees}\n")
    endif()
    if(header MATCHES "\\.hpp$" AND target MATCHES "\\.cuh$")
      string(APPEND wrong "  ${header} includes ${target}: a .cuh includes its .hpp, never the reverse\n")
    endif()
  endforeach()
endforeach()
list(LENGTH headers count)
if(wrong OR count EQUAL 0)
  message(FATAL_ERROR "moefold: of ${count} headers in ${INCLUDE} these are on the wrong floor:\n${wrong}")
endif()
message("${count} headers include only what is below them")
