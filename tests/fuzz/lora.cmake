fedumm_fuzzer(fuzz_peft_config LIBS fedumm::data)
