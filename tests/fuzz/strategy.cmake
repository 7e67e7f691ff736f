fedumm_fuzzer(fuzz_checkpoint LIBS fedumm::core)
