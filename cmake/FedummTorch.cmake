# torch::cpu (libtorch_cpu, libc10) and torch::cuda (+ libc10_cuda, libcudart) from an unpacked torch wheel: no TorchConfig.cmake, no
# `import torch`, no nvcc, no driver. libtorch_cuda.so is never linked; the program dlopen()s it when a driver is there.
# In: -DFEDUMM_TORCH_DIR / env FEDUMM_TORCH_DIR = the package directory, else python3's torch. Out: FEDUMM_TORCH_FOUND, _VERSION, _LIBDIR.
include_guard(GLOBAL)
set(FEDUMM_TORCH_DIR "$ENV{FEDUMM_TORCH_DIR}" CACHE PATH "torch package directory (include/, lib/); empty: ask python3")
set(FEDUMM_TORCH_FOUND FALSE)
set(_d "${FEDUMM_TORCH_DIR}")
find_program(FEDUMM_PYTHON NAMES python3 python)
if(NOT _d AND FEDUMM_PYTHON) # find_spec locates the package without importing it
  execute_process(COMMAND ${FEDUMM_PYTHON} -c "import importlib.util as u; s = u.find_spec('torch'); print(s.submodule_search_locations[0] if s else '')"
    OUTPUT_VARIABLE _d OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
endif()
if(NOT EXISTS "${_d}/include/ATen/ATen.h" OR NOT EXISTS "${_d}/lib/libtorch_cpu.so")
  message(STATUS "FedummTorch: no torch package ('${_d}'); the torch target is left out")
  return()
endif()
get_filename_component(_site "${_d}" DIRECTORY)
file(STRINGS "${_d}/version.py" _v REGEX "^(__version__|cuda)")
string(REGEX MATCH "__version__ = '([0-9.]+)" _ "${_v}")
set(FEDUMM_TORCH_VERSION "${CMAKE_MATCH_1}")
string(REGEX MATCH "cuda[^=]*= '([0-9]+)" _ "${_v}")
set(_cu "${CMAKE_MATCH_1}") # CUDA major version, empty for a CPU build
add_library(torch::c10 SHARED IMPORTED GLOBAL)
set_target_properties(torch::c10 PROPERTIES IMPORTED_LOCATION "${_d}/lib/libc10.so")
add_library(torch::cpu SHARED IMPORTED GLOBAL)
set_target_properties(torch::cpu PROPERTIES IMPORTED_LOCATION "${_d}/lib/libtorch_cpu.so" INTERFACE_LINK_LIBRARIES torch::c10
  INTERFACE_COMPILE_FEATURES cxx_std_20
  # -idirafter, not -isystem: the wheel's google/protobuf (3.13) and fmt (12) must stay behind the system's
  INTERFACE_COMPILE_OPTIONS "$<$<COMPILE_LANGUAGE:CXX>:SHELL:-idirafter ${_d}/include -idirafter ${_d}/include/torch/csrc/api/include>")
if(EXISTS "${_d}/lib/libgomp.so.1") # the wheel's own OpenMP: what is compiled with -fopenmp shares its threads
  add_library(torch::gomp SHARED IMPORTED GLOBAL)
  set_target_properties(torch::gomp PROPERTIES IMPORTED_LOCATION "${_d}/lib/libgomp.so.1")
  set_property(TARGET torch::cpu APPEND PROPERTY INTERFACE_LINK_LIBRARIES torch::gomp)
else()
  find_package(OpenMP REQUIRED)
  set_property(TARGET torch::cpu APPEND PROPERTY INTERFACE_LINK_LIBRARIES OpenMP::OpenMP_CXX)
endif()
if(_cu) # a CUDA wheel's libtorch_cpu.so NEEDs libcudart and libcupti: sibling nvidia-* wheels (its own RPATH) or the toolkit
  find_package(CUDAToolkit QUIET)
  foreach(l cudart cupti)
    find_library(FEDUMM_${l} NAMES lib${l}.so.${_cu} PATHS "${_site}/nvidia/cu${_cu}/lib" "${CUDAToolkit_LIBRARY_DIR}" NO_DEFAULT_PATH)
    find_library(FEDUMM_${l} NAMES lib${l}.so.${_cu} PATH_SUFFIXES extras/CUPTI/lib64)
    if(NOT FEDUMM_${l})
      message(FATAL_ERROR "FedummTorch: lib${l}.so.${_cu} is missing: pip install --no-deps nvidia-cuda-runtime nvidia-cuda-cupti")
    endif()
    get_filename_component(_l "${FEDUMM_${l}}" DIRECTORY)
    set_property(TARGET torch::cpu APPEND PROPERTY INTERFACE_LINK_OPTIONS "LINKER:-rpath-link,${_l}") # for ld only
  endforeach()
  find_path(FEDUMM_CUDA_INC crt/host_defines.h PATHS ${CUDAToolkit_INCLUDE_DIRS} "${_site}/nvidia/cu${_cu}/include")
  if(FEDUMM_CUDA_INC AND EXISTS "${_d}/lib/libc10_cuda.so")
    add_library(torch::cuda SHARED IMPORTED GLOBAL)
    set_target_properties(torch::cuda PROPERTIES IMPORTED_LOCATION "${_d}/lib/libc10_cuda.so"
      INTERFACE_INCLUDE_DIRECTORIES "${FEDUMM_CUDA_INC}" INTERFACE_LINK_LIBRARIES "torch::cpu;${FEDUMM_cudart}")
  endif()
endif()
set(FEDUMM_TORCH_LIBDIR "${_d}/lib")
set(FEDUMM_TORCH_FOUND TRUE)
message(STATUS "FedummTorch: torch ${FEDUMM_TORCH_VERSION}, CUDA '${_cu}', ${_d}")
