# FEDUMM_WITH_CUDA: on when a CUDA toolkit is found. Without it the same API is built and its CUDA entry points answer UNIMPLEMENTED.
include_guard(GLOBAL)
include(CheckLanguage)

check_language(CUDA)
if(CMAKE_CUDA_COMPILER)
  set(_fedumm_cuda_default ON)
else()
  set(_fedumm_cuda_default OFF)
endif()
option(FEDUMM_WITH_CUDA "Build the CUDA kernels" ${_fedumm_cuda_default})
set(FEDUMM_CUDA_ARCHITECTURES "" CACHE STRING "CUDA architectures of the kernels (empty: those the toolkit knows)")

if(FEDUMM_WITH_CUDA)
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES OFF) # chosen below, by the compiler's version
  endif()
  enable_language(CUDA)
  if(NOT CMAKE_CUDA_ARCHITECTURES AND FEDUMM_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES ${FEDUMM_CUDA_ARCHITECTURES})
  elseif(NOT CMAKE_CUDA_ARCHITECTURES AND CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 12.8)
    set(CMAKE_CUDA_ARCHITECTURES 80-real 90a-real 100-real 120)
  elseif(NOT CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES 80-real 90a-real 90-virtual)
  endif()
  set(CMAKE_CUDA_RUNTIME_LIBRARY None) # fedumm_kernels names it, for consumers without the CUDA language, too
endif()
