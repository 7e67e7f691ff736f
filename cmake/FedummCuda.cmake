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
set(FEDUMM_CUDA_ARCHITECTURES "80-real;90-real;100-real;120" CACHE STRING "CUDA architectures of the kernels")

if(FEDUMM_WITH_CUDA)
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES ${FEDUMM_CUDA_ARCHITECTURES})
  endif()
  enable_language(CUDA)
  set(CMAKE_CUDA_RUNTIME_LIBRARY Static) # a kernels-only program then needs no CUDA library to start
endif()
