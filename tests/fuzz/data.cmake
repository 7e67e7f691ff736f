fedumm_fuzzer(fuzz_safetensors LIBS fedumm::data)
