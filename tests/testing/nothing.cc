// A target needs a source: see fedumm_test_headers in tests/CMakeLists.txt.
