# fedumm_library(name): declares libfedumm_<name>.a and its alias fedumm::<name>. Each folder under src/ adds its own sources.
include_guard(GLOBAL)

set(FEDUMM_WARNINGS -Wall -Wextra -Wno-sign-compare -Wno-missing-field-initializers)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  list(APPEND FEDUMM_WARNINGS -Wno-restrict) # false alarms in std::string, GCC bug 105329
endif()
if(FEDUMM_WERROR)
  list(APPEND FEDUMM_WARNINGS -Werror)
endif()

function(fedumm_library name)
  add_library(fedumm_${name} STATIC)
  add_library(fedumm::${name} ALIAS fedumm_${name})
  set_target_properties(fedumm_${name} PROPERTIES EXPORT_NAME ${name} POSITION_INDEPENDENT_CODE ON)
  target_compile_features(fedumm_${name} PUBLIC cxx_std_20)
  target_compile_options(fedumm_${name} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:${FEDUMM_WARNINGS}>)
  target_include_directories(fedumm_${name}
    PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>
    PRIVATE ${PROJECT_SOURCE_DIR}/src)
endfunction()
