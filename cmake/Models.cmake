# moefold_model(NAME config.json): a model shape from a Hugging Face config.json, made when it is built and made anew when the file changes.
#
#   moefold_model(my_moe models/my_moe/config.json)            target moefold_model_my_moe
#   target_link_libraries(trainer PRIVATE moefold_model_my_moe)
#   #include <moefold/models/my_moe.hpp>                       inline constexpr moefold::model_shape my_moe{...};
#
# A file that asks for what is not built, or says what nobody knows, ends the build with an error that names the field.
set(MOEFOLD_MODEL_HEADER_SOURCE ${CMAKE_CURRENT_LIST_DIR}/model_header.cpp CACHE INTERNAL "")

function(moefold_model name config)
  get_filename_component(config ${config} ABSOLUTE BASE_DIR ${CMAKE_CURRENT_SOURCE_DIR})
  if(NOT name MATCHES "^[A-Za-z_][A-Za-z0-9_]*$")
    message(FATAL_ERROR "moefold: moefold_model(${name} ...) needs the name of a C++ constant, like my_moe")
  elseif(NOT EXISTS ${config} OR IS_DIRECTORY ${config})
    message(FATAL_ERROR "moefold: moefold_model(${name} ...) names ${config}, which is not a file; give the path of a config.json")
  elseif(TARGET moefold_model_${name})
    message(FATAL_ERROR "moefold: there is already a model ${name}; give moefold_model() another name")
  elseif(NOT TARGET moefold::checkpoint)
    message(FATAL_ERROR "moefold: moefold_model() reads JSON and needs moefold::checkpoint; install nlohmann-json3-dev and libxxhash-dev, "
                        "and write find_package(moefold COMPONENTS checkpoint)")
  endif()
  if(NOT TARGET moefold_model_header)
    add_executable(moefold_model_header EXCLUDE_FROM_ALL ${MOEFOLD_MODEL_HEADER_SOURCE})
    target_link_libraries(moefold_model_header PRIVATE moefold::checkpoint)
    target_compile_options(moefold_model_header PRIVATE -O0)  # reads a page of text: built fast, not fast
    set_target_properties(moefold_model_header PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/moefold_models)
  endif()
  set(header ${CMAKE_BINARY_DIR}/moefold_models/include/moefold/models/${name}.hpp)
  file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/moefold_models/include/moefold/models)
  add_custom_command(OUTPUT ${header} COMMAND moefold_model_header ${name} ${config} ${header} DEPENDS ${config} moefold_model_header
                     COMMENT "Reading the model ${name} from ${config}" VERBATIM)
  add_custom_target(moefold_model_${name}_made DEPENDS ${header})
  add_library(moefold_model_${name} INTERFACE)
  target_include_directories(moefold_model_${name} INTERFACE ${CMAKE_BINARY_DIR}/moefold_models/include)
  target_link_libraries(moefold_model_${name} INTERFACE moefold::moefold)
  add_dependencies(moefold_model_${name} moefold_model_${name}_made)
endfunction()

# moefold_models: all models that MOEFOLD_MODELS lists, each named after the folder that holds its file (what no identifier can hold becomes _).
# A path that is not absolute counts from the top of the source tree, or else from where cmake was called.
function(moefold_listed_models)
  add_library(moefold_models INTERFACE)
  set(files "")
  foreach(config ${MOEFOLD_MODELS})
    set(file ${config})
    if(NOT IS_ABSOLUTE ${config})
      get_filename_component(file ${config} ABSOLUTE BASE_DIR ${PROJECT_SOURCE_DIR})
      if(NOT EXISTS ${file} AND DEFINED ENV{PWD})
        get_filename_component(file ${config} ABSOLUTE BASE_DIR $ENV{PWD})
      endif()
    endif()
    if(NOT EXISTS ${file} OR IS_DIRECTORY ${file})
      message(FATAL_ERROR "moefold: MOEFOLD_MODELS names ${config}, which is not a file; give paths of config.json files, separated by ';'")
    endif()
    get_filename_component(folder ${file} DIRECTORY)
    get_filename_component(folder ${folder} NAME)
    string(MAKE_C_IDENTIFIER "${folder}" name)
    if(TARGET moefold_model_${name})
      message(FATAL_ERROR "moefold: MOEFOLD_MODELS has two models in folders named ${name} (the second is ${file}); rename one folder")
    endif()
    moefold_model(${name} ${file})
    target_link_libraries(moefold_models INTERFACE moefold_model_${name})
    message(STATUS "moefold: <moefold/models/${name}.hpp> is ${file}")
    list(APPEND files ${file})
  endforeach()
  if(MOEFOLD_MODELS)  # remembered as absolute paths: a later reconfigure may start in another folder
    set_property(CACHE MOEFOLD_MODELS PROPERTY VALUE "${files}")
  endif()
endfunction()
