// A random model of Qwen2.5-VL's shape with a chat tokenizer of 657 tokens.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "fedumm/model/config.h"
#include "fedumm/model/tokenizer.h"
#include "tests/model/data/test_files.h"

namespace fedumm::model {

inline BackboneConfig SmallQwenConfig() {
  return {.text = {.vocab_size = 657,
                   .hidden_size = 32,
                   .intermediate_size = 64,
                   .num_hidden_layers = 2,
                   .num_attention_heads = 4,
                   .num_key_value_heads = 2,
                   .rms_norm_eps = 1e-6,
                   .rope_theta = 1e6,
                   .mrope_section = {1, 1, 2},
                   .tie_word_embeddings = true},
          .vision = {.depth = 2,
                     .hidden_size = 32,
                     .intermediate_size = 48,
                     .num_heads = 2,
                     .in_channels = 3,
                     .patch_size = 14,
                     .temporal_patch_size = 2,
                     .spatial_merge_size = 2,
                     .window_size = 56,
                     .out_hidden_size = 32,
                     .fullatt_block_indexes = {1}},
          .image_token_id = 652,
          .video_token_id = 653,
          .vision_start_token_id = 649,
          .vision_end_token_id = 650};
}

inline Tokenizer SmallQwenTokenizer() {
  return Tokenizer::FromTokenizerJson(testing::ReadTestData("tokenizer/tiny_tokenizer.json"))
      .value();
}

}  // namespace fedumm::model
