#include "tests/cuda/machine/ptx_parser.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <utility>

namespace fedumm::cuda_machine {
namespace {

std::vector<std::string_view> Tokenize(const std::string& text) {
  std::vector<std::string_view> tokens;
  const auto is_word = [&](size_t i) {
    const char c = text[i];
    if (std::isalnum(static_cast<unsigned char>(c)) != 0) return true;
    if (c == '_' || c == '$' || c == '%' || c == '.') return true;
    // a::b is one word
    return c == ':' &&
           ((i + 1 < text.size() && text[i + 1] == ':') || (i > 0 && text[i - 1] == ':'));
  };
  for (size_t i = 0; i < text.size();) {
    const char c = text[i];
    size_t end = i + 1;
    if (std::isspace(static_cast<unsigned char>(c)) != 0) {
      ++i;
      continue;
    }
    if (c == '/' && end < text.size() && text[end] == '/') {
      i = std::min(text.find('\n', i), text.size());
      continue;
    }
    if (c == '/' && end < text.size() && text[end] == '*') {
      i = std::min(text.find("*/", i), text.size() - 2) + 2;
      continue;
    }
    if (c == '"') {
      end = std::min(text.find('"', end), text.size() - 1) + 1;
    } else if (is_word(i)) {
      while (end < text.size() && is_word(end)) ++end;
    }
    tokens.emplace_back(text.data() + i, end - i);
    i = end;
  }
  return tokens;
}

int TypeBits(std::string_view type) {  // .b32 -> 32
  if (type == ".pred") return 1;
  const size_t digit = type.find_first_of("0123456789");
  return digit == std::string_view::npos ? 32 : std::atoi(std::string(type.substr(digit)).c_str());
}

class Parser {
 public:
  explicit Parser(const std::string& text) : tokens_(Tokenize(text)) {}

  PtxFile Parse() {
    std::map<std::string, PtxVariable> module_variables;
    while (!AtEnd()) {
      const std::string_view t = Next();
      if (t == ".file") {
        const auto number = static_cast<size_t>(Number());
        const std::string_view name = Next();
        file_.files.resize(std::max(file_.files.size(), number + 1));
        file_.files[number] = std::string(name.substr(1, name.size() - 2));
        while (Accept(",")) Next();
      } else if (t == ".section") {
        Next();
        SkipBraces();
      } else if (t == ".entry") {
        kernel_ = {};
        kernel_.variables = module_variables;
        ParseKernel();
        file_.kernels.push_back(std::move(kernel_));
      } else if (t == ".func") {
        while (!AtEnd() && Peek() != "{" && Peek() != ";") Next();
        if (Peek() == "{") SkipBraces();
      } else if (t == ".shared" || t == ".global" || t == ".const") {
        kernel_.variables.clear();
        const bool is_extern = was_extern_;
        ParseVariable(t == ".shared" ? Space::kShared : Space::kGlobal, is_extern);
        module_variables.merge(kernel_.variables);
      }
      was_extern_ = t == ".extern";
    }
    return std::move(file_);
  }

 private:
  bool AtEnd() const { return at_ >= tokens_.size(); }
  std::string_view Peek(size_t ahead = 0) const {
    return at_ + ahead < tokens_.size() ? tokens_[at_ + ahead] : std::string_view();
  }
  std::string_view Next() {
    const std::string_view t = Peek();
    ++at_;
    return t;
  }
  bool Accept(std::string_view t) {
    if (Peek() != t) return false;
    ++at_;
    return true;
  }
  int64_t Number() {
    const bool minus = Accept("-");
    const std::string s(Next());
    const auto value = static_cast<int64_t>(std::strtoull(s.c_str(), nullptr, 0));
    return minus ? -value : value;
  }
  void SkipBraces() {
    int depth = 0;
    do {
      const std::string_view t = Next();
      depth += t == "{" ? 1 : t == "}" ? -1 : 0;
    } while (depth > 0 && !AtEnd());
  }

  // --- Scopes: names that inline assembly declares inside { } hide others ---

  struct Scope {
    int parent = -1;
    std::map<std::string, int, std::less<>> registers, labels;
  };
  int FindRegister(std::string_view name) const {
    for (int s = scope_; s >= 0; s = scopes_[s].parent) {
      const auto it = scopes_[s].registers.find(name);
      if (it != scopes_[s].registers.end()) return it->second;
    }
    return -1;
  }
  void DeclareRegister(const std::string& name, int bits) {
    scopes_[scope_].registers[name] = static_cast<int>(kernel_.registers.size());
    kernel_.registers.push_back({bits});
  }

  // .align 4 .b8 name[16] = {...};
  void ParseVariable(Space space, bool is_extern) {
    PtxVariable v;
    v.space = space;
    int bits = 32;
    bool aligned = false;
    while (Peek().substr(0, 1) == ".") {
      const std::string_view t = Next();
      if (t == ".align") {
        v.align = static_cast<uint32_t>(Number());
        aligned = true;
      } else if (t != ".attribute") {
        bits = TypeBits(t);
      }
    }
    const std::string name(Next());
    uint32_t count = 1;
    while (Accept("[")) {
      if (Peek() == "]") {
        v.dynamic = true;
      } else {
        count *= static_cast<uint32_t>(Number());
      }
      Accept("]");
    }
    while (!AtEnd() && Peek() != ";") {
      if (Peek() == "{")
        SkipBraces();
      else
        Next();
    }
    Accept(";");
    if (!aligned) v.align = static_cast<uint32_t>(bits) / 8;
    v.bytes = count * static_cast<uint32_t>(bits) / 8;
    v.dynamic = v.dynamic || is_extern;
    if (v.dynamic) v.bytes = 0;
    kernel_.variables[name] = v;
  }

  void ParseKernel() {
    kernel_.name = std::string(Next());
    if (Accept("(")) {
      while (!Accept(")")) ParseParam();
    }
    while (Peek() != "{") {
      const std::string_view t = Next();
      if (t == ".maxntid" || t == ".reqntid") {
        kernel_.max_threads = 1;
        do kernel_.max_threads *= static_cast<uint32_t>(Number());
        while (Accept(","));
      } else if (t == ".reqnctapercluster") {
        std::fill_n(kernel_.cluster, 3, 1);
        int axis = 0;
        do kernel_.cluster[axis++] = static_cast<uint32_t>(Number());
        while (Accept(",") && axis < 3);
      }
    }
    scopes_.assign(1, {});
    scope_ = -1;
    branches_.clear();
    location_ = 0;
    kernel_.locations.assign(1, {});
    ParseBody();
    for (const auto& [statement, name, scope] : branches_) {
      for (int s = scope; s >= 0; s = scopes_[s].parent) {
        const auto it = scopes_[s].labels.find(name);
        if (it == scopes_[s].labels.end()) continue;
        kernel_.code[statement].target = it->second;
        break;
      }
    }
  }

  // .param .align 64 .b8 name[128]
  void ParseParam() {
    uint32_t align = 0, bits = 32, count = 1;
    Accept(",");
    while (Peek().substr(0, 1) == ".") {
      const std::string_view t = Next();
      if (t == ".align") {
        align = static_cast<uint32_t>(Number());
      } else if (t != ".param" && t != ".ptr" && t != ".global" && t != ".shared") {
        bits = static_cast<uint32_t>(TypeBits(t));
      }
    }
    const std::string name(Next());
    if (Accept("[")) {
      count = static_cast<uint32_t>(Number());
      Accept("]");
    }
    const uint32_t bytes = count * bits / 8;
    if (align == 0) align = bits / 8;
    kernel_.param_bytes = (kernel_.param_bytes + align - 1) / align * align;
    kernel_.param_offsets[name] = kernel_.param_bytes;
    kernel_.params.push_back({kernel_.param_bytes, bytes});
    kernel_.param_bytes += bytes;
  }

  void ParseBody() {
    int depth = 0;
    while (!AtEnd()) {
      const std::string_view t = Next();
      if (t == "{") {
        if (depth++ == 0) {
          scope_ = 0;
        } else {
          scopes_.push_back({scope_, {}, {}});
          scope_ = static_cast<int>(scopes_.size()) - 1;
        }
      } else if (t == "}") {
        if (--depth == 0) return;
        scope_ = scopes_[scope_].parent;
      } else if (t == ".reg") {
        ParseRegisters();
      } else if (t == ".shared" || t == ".local") {
        ParseVariable(t == ".shared" ? Space::kShared : Space::kLocal, false);
      } else if (t == ".loc") {
        ParseLocation();
      } else if (t == ".pragma") {
        while (!Accept(";")) Next();
      } else if (t == "@") {
        PtxStatement s;
        s.negated = Accept("!");
        s.predicate = FindRegister(Next());
        s.opcode = std::string(Next());
        ParseStatement(std::move(s));
      } else if (Peek() == ":") {
        Next();
        scopes_[scope_].labels[std::string(t)] = static_cast<int>(kernel_.code.size());
      } else if (t != ";") {
        PtxStatement s;
        s.opcode = std::string(t);
        ParseStatement(std::move(s));
      }
    }
  }

  void ParseRegisters() {
    const int bits = TypeBits(Next());
    do {
      const std::string name(Next());
      if (Accept("<")) {
        const int64_t n = Number();
        Accept(">");
        for (int64_t i = 0; i < n; ++i) DeclareRegister(name + std::to_string(i), bits);
      } else {
        DeclareRegister(name, bits);
      }
    } while (Accept(","));
    Accept(";");
  }

  // .loc file line column [, function_name label [+ offset], inlined_at file line column]
  void ParseLocation() {
    SourceLocation l;
    l.file = static_cast<int>(Number());
    l.line = static_cast<int>(Number());
    Number();
    while (Accept(",")) {
      if (Next() == "inlined_at") {
        l.inlined_file = static_cast<int>(Number());
        l.inlined_line = static_cast<int>(Number());
        Number();
      } else {
        Next();
        if (Accept("+")) Next();
      }
    }
    location_ = static_cast<uint32_t>(kernel_.locations.size());
    kernel_.locations.push_back(l);
  }

  void ParseStatement(PtxStatement s) {
    s.location = location_;
    for (size_t a = 0; a <= s.opcode.size();) {
      const size_t b = std::min(s.opcode.find('.', a), s.opcode.size());
      s.words.push_back(s.opcode.substr(a, b - a));
      a = b + 1;
    }
    if (s.words[0] == "bra") {
      branches_.push_back({kernel_.code.size(), std::string(Next()), scope_});
    } else if (s.words[0] == "call" || s.words[0] == "brx") {
      while (Peek() != ";" && !AtEnd()) Next();
    } else {
      while (Peek() != ";" && !AtEnd()) {
        s.operands.push_back(ParseOperand());
        Accept(",");
      }
    }
    Accept(";");
    kernel_.code.push_back(std::move(s));
  }

  PtxOperand ParseOperand() {
    PtxOperand o;
    if (Accept("!")) {
      o = ParseOperand();
      o.negated = true;
      return o;
    }
    if (Accept("[")) {
      o = ParseOperand();
      if (Peek() == ",") {
        PtxOperand all;
        all.kind = PtxOperand::kVector;
        all.parts.push_back(std::move(o));
        while (Accept(",")) all.parts.push_back(ParseOperand());
        o = std::move(all);
      }
      Accept("]");
      o.memory = true;
      return o;
    }
    if (Accept("{")) {
      o.kind = PtxOperand::kVector;
      while (!Accept("}") && !AtEnd()) {
        o.parts.push_back(ParseOperand());
        Accept(",");
      }
      return o;
    }
    const bool minus = Accept("-");
    const std::string t(Next());
    if (minus || std::isdigit(static_cast<unsigned char>(t[0])) != 0) {
      o.kind = PtxOperand::kImmediate;
      const bool is_float = t.size() > 2 && t[0] == '0' && std::strchr("fFdD", t[1]) != nullptr;
      o.immediate = std::strtoull(is_float ? t.c_str() + 2 : t.c_str(), nullptr, is_float ? 16 : 0);
      if (minus) o.immediate = -o.immediate;
    } else if (t == "_") {
      o.kind = PtxOperand::kSink;
    } else if (const int r = FindRegister(t); r >= 0) {
      o.kind = PtxOperand::kRegister;
      o.reg = r;
    } else {
      o.kind = t[0] == '%' ? PtxOperand::kSpecial : PtxOperand::kSymbol;
      o.name = t;
    }
    if (Accept("+")) o.offset = Number();
    if (Accept("|")) o.also = FindRegister(Next());
    return o;
  }

  std::vector<std::string_view> tokens_;
  size_t at_ = 0;
  PtxFile file_;
  PtxKernel kernel_;
  bool was_extern_ = false;
  std::vector<Scope> scopes_;
  int scope_ = -1;
  uint32_t location_ = 0;
  struct Branch {
    size_t statement;
    std::string label;
    int scope;
  };
  std::vector<Branch> branches_;
};

}  // namespace

bool PtxStatement::Has(const char* word) const {
  return std::find(words.begin(), words.end(), word) != words.end();
}

PtxFile ParsePtxSyntax(const std::string& text) { return Parser(text).Parse(); }

}  // namespace fedumm::cuda_machine
