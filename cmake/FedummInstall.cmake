# cmake --install, and find_package(fedumm COMPONENTS kernels core data model).
include(CMakePackageConfigHelpers)

set(_components kernels core data)
if(FEDUMM_WITH_MODEL)
  list(APPEND _components model)
endif()
set(_targets ${_components})
list(TRANSFORM _targets PREPEND fedumm_)
install(TARGETS ${_targets} EXPORT fedummTargets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(EXPORT fedummTargets NAMESPACE fedumm:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/fedumm)
install(DIRECTORY include/fedumm DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
if(TARGET fedumm-superlink)
  install(TARGETS fedumm-superlink RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
if(TARGET fedumm)
  install(TARGETS fedumm-supernode fedumm RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()

configure_package_config_file(cmake/fedummConfig.cmake.in ${CMAKE_CURRENT_BINARY_DIR}/fedummConfig.cmake
  INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/fedumm)
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/fedummConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/fedummConfig.cmake ${CMAKE_CURRENT_BINARY_DIR}/fedummConfigVersion.cmake
  cmake/FedummTorch.cmake DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/fedumm)
