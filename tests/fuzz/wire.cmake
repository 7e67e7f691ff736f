fedumm_fuzzer(fuzz_npy LIBS fedumm::core)
fedumm_fuzzer(fuzz_object LIBS fedumm::core protobuf::libprotobuf)
fedumm_fuzzer(fuzz_records LIBS fedumm::core protobuf::libprotobuf)
