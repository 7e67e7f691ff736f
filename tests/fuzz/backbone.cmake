fedumm_fuzzer(fuzz_backbone_config LIBS fedumm::data)
