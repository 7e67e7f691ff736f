fedumm_fuzzer(fuzz_safetensors LIBS fedumm::data)
fedumm_fuzzer(fuzz_png LIBS fedumm::data)
