# C++20 in CUDA with CMake 3.25.1, which knows the compiler but not this pair (3.25.2 does).

# For a whole project, after enable_language(CUDA): teaches CMake the flag. Only a top-level project may do this to itself.
macro(moefold_teach_cuda20)
  if(NOT "cuda_std_20" IN_LIST CMAKE_CUDA_COMPILE_FEATURES)
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
    set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
    list(APPEND CMAKE_CUDA_COMPILE_FEATURES cuda_std_20)
  endif()
endmacro()

# For one target, also an imported one: its users' .cu files are C++20. cxx_std_20 says nothing about them.
function(moefold_require_cuda20 target)
  if("cuda_std_20" IN_LIST CMAKE_CUDA_COMPILE_FEATURES)
    target_compile_features(${target} INTERFACE $<BUILD_INTERFACE:cuda_std_20>)
  else()
    target_compile_options(${target} INTERFACE $<BUILD_INTERFACE:$<$<COMPILE_LANGUAGE:CUDA>:-std=c++20>>)
  endif()
endfunction()
