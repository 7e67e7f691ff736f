fedumm_fuzzer(fuzz_safetensors LIBS fedumm::data)
fedumm_fuzzer(fuzz_png LIBS fedumm::data)
fedumm_fuzzer(fuzz_tokenizer_json LIBS fedumm::data)
fedumm_fuzzer(fuzz_tokenizer_text LIBS fedumm::data)
