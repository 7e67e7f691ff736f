#include "fedumm/model/tokenizer.h"

namespace fedumm::model {
namespace {

void AppendMessage(const std::string& role, const std::string& content, std::string& chat) {
  chat += "<|im_start|>" + role + "\n" + content + "<|im_end|>\n";
}

}  // namespace

std::string RenderChat(std::span<const ChatMessage> messages, bool for_generation) {
  std::string chat;
  if (messages.empty() || messages.front().role != "system") {
    AppendMessage("system", std::string(kDefaultSystemPrompt), chat);
  }
  for (const ChatMessage& message : messages) {
    std::string content;
    for (const int64_t tokens : message.images) {
      content += "<|vision_start|>";
      for (int64_t i = 0; i < tokens; ++i) content += "<|image_pad|>";
      content += "<|vision_end|>";
    }
    AppendMessage(message.role, content + message.text, chat);
  }
  if (for_generation) chat += "<|im_start|>assistant\n";
  return chat;
}

}  // namespace fedumm::model
