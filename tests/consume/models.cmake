# cmake -DSOURCE= -DBUILT= -DCOMPILER= -P models.cmake: a project with MOEFOLD_MODELS. A good file makes a header, made anew when it changes; a bad one
# ends the build with the name of the field; what is no file, or two models of one name, ends the configuration.
cmake_minimum_required(VERSION 3.25)
set(here ${BUILT}/consume/models)
file(REMOVE_RECURSE ${here})
function(run expected words)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE result OUTPUT_VARIABLE out ERROR_VARIABLE error)
  if((expected STREQUAL "passes" AND NOT result EQUAL 0) OR (expected STREQUAL "fails" AND result EQUAL 0) OR NOT "${out}${error}" MATCHES "${words}")
    message(FATAL_ERROR "moefold: this should have been something that ${expected} and says '${words}': ${ARGN}\n${out}${error}")
  endif()
endfunction()

file(READ ${SOURCE}/tests/golden/mixtral/config.json config)
file(WRITE ${here}/Tiny-MoE-1.0/config.json "${config}")
file(WRITE ${here}/again/Tiny_MoE_1_0/config.json "${config}")
string(REPLACE "\"vocab_size\"" "\"logit_softcap\": 30.0, \"vocab_size\"" wrong "${config}")
file(WRITE ${here}/wrong/config.json "${wrong}")

set(configure ${CMAKE_COMMAND} -G Ninja -S ${SOURCE}/tests/consume/models -B ${here}/build -DCMAKE_CXX_COMPILER=${COMPILER} -DMOEFOLD_SOURCE=${SOURCE})
set(build ${CMAKE_COMMAND} --build ${here}/build --target)
run(fails "names nowhere/config.json, which is not a file" ${configure} -DMOEFOLD_MODELS=nowhere/config.json)
run(fails "two models in folders named Tiny_MoE_1_0" ${configure}
    "-DMOEFOLD_MODELS=${here}/Tiny-MoE-1.0/config.json\;${here}/again/Tiny_MoE_1_0/config.json")
run(passes "moefold/models/Tiny_MoE_1_0.hpp. is ${here}/Tiny-MoE-1.0/config.json" ${configure} "-DMOEFOLD_MODELS=${here}/Tiny-MoE-1.0/config.json")
run(passes "" ${build} layers)
run(passes "2 layers" ${here}/build/layers)

string(REPLACE "\"num_hidden_layers\": 2" "\"num_hidden_layers\": 7" config "${config}")
file(WRITE ${here}/Tiny-MoE-1.0/config.json "${config}")
run(passes "" ${build} layers)
run(passes "7 layers" ${here}/build/layers)

run(passes "" ${configure} "-DMOEFOLD_MODELS=${here}/wrong/config.json")
run(fails "wrong/config.json.*'logit_softcap': this field is not supported" ${build} moefold_model_wrong_made)
