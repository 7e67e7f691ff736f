#include "tests/cuda/machine/program.h"

#include <cxxabi.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <string_view>
#include <utility>

#include "tests/cuda/machine/alu.h"
#include "tests/cuda/machine/async_copy.h"
#include "tests/cuda/machine/barriers.h"
#include "tests/cuda/machine/memory_instructions.h"
#include "tests/cuda/machine/ptx_parser.h"
#include "tests/cuda/machine/tensor.h"
#include "tests/cuda/machine/warp_instructions.h"
#include "tests/cuda/machine/wgmma.h"

namespace fedumm::cuda_machine {
namespace {

using Words = std::vector<std::string>;

bool StartsWith(const std::string& s, std::string_view prefix) {
  return s.compare(0, prefix.size(), prefix) == 0;
}

int TypeBytes(const std::string& word) {  // b32 -> 4; 0 if it is no type
  if (word == "f16x2" || word == "bf16x2") return 4;
  const size_t digit = word.find_first_of("0123456789");
  if (digit == std::string::npos || digit == 0 || digit > 2) return 0;
  if (std::string_view("usbf").find(word[0]) == std::string_view::npos) return 0;
  return std::atoi(word.c_str() + digit) / 8;
}

// The opcode without suffixes that change nothing here. cvt keeps what says how it rounds, except
// .rn, which is what the machine does.
std::string AluName(const Words& words) {
  std::string out = words[0];
  const bool conversion = words[0] == "cvt";
  for (size_t i = 1; i < words.size(); ++i) {
    const std::string& w = words[i];
    if (w == "rn" || w == "ftz" || w == "approx" || w == "full") continue;
    if (conversion && w == "relu") return "";
    out += "." + w;
  }
  return out;
}

class Decoder {
 public:
  Decoder(PtxKernel kernel, const std::vector<std::string>& files) : k_(std::move(kernel)) {
    p_.files = files;
  }

  std::shared_ptr<const Program> Decode() {
    p_.mangled = k_.name;
    p_.name = PlainName(k_.name);
    p_.params = k_.params;
    p_.param_bytes = k_.param_bytes;
    p_.max_threads = k_.max_threads;
    std::copy(std::begin(k_.cluster), std::end(k_.cluster), p_.cluster);
    p_.locations = std::move(k_.locations);
    p_.register_bytes = kScratchBytes;
    for (const PtxRegister& r : k_.registers) {
      if (r.bits == 1)
        rows_.push_back({p_.predicates++, false});
      else
        rows_.push_back(NewRow(r.bits > 32));
    }
    PlaceVariables();
    for (const PtxStatement& s : k_.code) {
      s_ = &s;
      Instruction in;
      in.location = s.location;
      in.opcode = OpcodeNumber(s.opcode);
      if (s.predicate >= 0) in.predicate = static_cast<int>(rows_[s.predicate].at);
      in.negated = s.negated;
      in.target = s.target;
      in.run = &Unknown;
      failed_ = false;
      DecodeOne(in);
      if (failed_) in.run = &Unknown;
      p_.code.push_back(std::move(in));
    }
    return std::make_shared<const Program>(std::move(p_));
  }

 private:
  static constexpr uint32_t kScratchBytes = 256;  // row 0 takes results that nobody wants

  // --- Rows and variables ---

  Row NewRow(bool wide) {
    const Row row{p_.register_bytes, wide};
    p_.register_bytes += wide ? 256 : 128;
    return row;
  }
  Row ConstantRow(uint64_t value, bool wide) {
    if (!wide) value &= 0xffffffff;
    const auto [it, is_new] = constants_.try_emplace({value, wide});
    if (is_new) {
      it->second = NewRow(wide);
      p_.constants.push_back({it->second, value});
    }
    return it->second;
  }
  uint32_t OpcodeNumber(const std::string& opcode) {
    const auto [it, is_new] =
        opcodes_.try_emplace(opcode, static_cast<uint32_t>(p_.opcodes.size()));
    if (is_new) p_.opcodes.push_back(opcode);
    return it->second;
  }

  static uint32_t RoundUp(uint32_t v, uint32_t align) { return (v + align - 1) / align * align; }

  void CollectSymbols(const PtxOperand& o, std::vector<PtxVariable*>* out) {
    if (o.kind == PtxOperand::kSymbol) {
      const auto it = k_.variables.find(o.name);
      if (it != k_.variables.end() &&
          std::find(out->begin(), out->end(), &it->second) == out->end()) {
        out->push_back(&it->second);
      }
    }
    for (const PtxOperand& part : o.parts) CollectSymbols(part, out);
  }

  // Shared and local variables that the kernel uses. Dynamic shared memory starts where its
  // declared alignment puts it and no better: a kernel that needs more must declare more.
  void PlaceVariables() {
    std::vector<PtxVariable*> used;
    for (const PtxStatement& s : k_.code) {
      for (const PtxOperand& o : s.operands) CollectSymbols(o, &used);
    }
    uint32_t dynamic_align = 16;
    for (PtxVariable* v : used) {
      if (v->space == Space::kShared && v->dynamic) {
        dynamic_align = std::max(dynamic_align, v->align);
      } else if (v->space == Space::kShared) {
        v->offset = RoundUp(kSharedBase + p_.static_shared_bytes, v->align) - kSharedBase;
        p_.static_shared_bytes = v->offset + v->bytes;
      } else if (v->space == Space::kLocal) {
        v->offset = RoundUp(p_.local_bytes, v->align);
        p_.local_bytes = RoundUp(v->offset + v->bytes, 16);
      }
    }
    uint32_t start = RoundUp(kSharedBase + p_.static_shared_bytes, dynamic_align);
    if (start % (2 * dynamic_align) == 0) start += dynamic_align;
    p_.dynamic_shared_offset = start - kSharedBase;
    for (PtxVariable* v : used) {
      if (v->space == Space::kShared && v->dynamic) v->offset = p_.dynamic_shared_offset;
    }
  }

  // --- Operands ---

  size_t Count() const { return s_->operands.size(); }
  const PtxOperand& Op(size_t i) {
    static const PtxOperand none;
    if (i < Count()) return s_->operands[i];
    failed_ = true;
    return none;
  }

  // The row of a scalar operand; constants are made `wide` as asked.
  Row RowOf(const PtxOperand& o, bool wide) {
    switch (o.kind) {
      case PtxOperand::kRegister:
        if (k_.registers[o.reg].bits == 1) failed_ = true;
        return rows_[o.reg];
      case PtxOperand::kImmediate:
        return ConstantRow(o.immediate, wide);
      case PtxOperand::kSink:
        return {0, wide};
      case PtxOperand::kSpecial:
        return SpecialRowOf(o.name);
      case PtxOperand::kSymbol: {
        const auto param = k_.param_offsets.find(o.name);
        if (param != k_.param_offsets.end()) {
          return ConstantRow(kParamWindow | param->second, true);
        }
        const auto v = k_.variables.find(o.name);
        if (v == k_.variables.end()) break;
        if (v->second.space == Space::kShared) {
          return ConstantRow(kSharedBase + v->second.offset, wide);
        }
        if (v->second.space == Space::kLocal) return ConstantRow(v->second.offset, wide);
        break;
      }
      default:
        break;
    }
    failed_ = true;
    return {};
  }
  // An address operand; its constant offset goes to *offset. A bare number is an offset from 0.
  Row Address(const PtxOperand& o, int64_t* offset) {
    *offset = o.offset;
    return RowOf(o, true);
  }
  uint32_t PredicateOf(const PtxOperand& o) {
    if (o.kind == PtxOperand::kSink) return p_.predicates;
    if (o.kind != PtxOperand::kRegister || k_.registers[o.reg].bits != 1) {
      failed_ = true;
      return 0;
    }
    return rows_[o.reg].at;
  }
  void Also(const PtxOperand& o, Instruction& in) {
    if (o.also < 0) return;
    in.has_also = true;
    in.also = static_cast<int>(rows_[o.also].at);
  }
  std::vector<Row> List(const PtxOperand& o, bool wide) {
    std::vector<Row> out;
    if (o.kind == PtxOperand::kVector) {
      for (const PtxOperand& part : o.parts) out.push_back(RowOf(part, wide));
    } else {
      out.push_back(RowOf(o, wide));
    }
    return out;
  }
  int64_t Immediate(const PtxOperand& o) {
    if (o.kind != PtxOperand::kImmediate) failed_ = true;
    return static_cast<int64_t>(o.immediate);
  }

  Row SpecialRowOf(const std::string& name) {
    const auto it = special_rows_.find(name);
    if (it != special_rows_.end()) return it->second;
    static const std::map<std::string, Special> kSpecials = {
        {"%tid", Special::kTid},
        {"%ntid", Special::kNtid},
        {"%ctaid", Special::kCtaid},
        {"%nctaid", Special::kNctaid},
        {"%laneid", Special::kLaneId},
        {"%warpid", Special::kWarpId},
        {"%lanemask_eq", Special::kLaneMaskEq},
        {"%lanemask_lt", Special::kLaneMaskLt},
        {"%lanemask_le", Special::kLaneMaskLe},
        {"%lanemask_gt", Special::kLaneMaskGt},
        {"%lanemask_ge", Special::kLaneMaskGe},
        {"%cluster_ctarank", Special::kClusterCtaRank},
        {"%cluster_nctarank", Special::kClusterNctaRank},
        {"%cluster_ctaid", Special::kClusterCtaid},
        {"%cluster_nctaid", Special::kClusterNctaid},
        {"%clusterid", Special::kClusterId},
        {"%nclusterid", Special::kNclusterId},
        {"%dynamic_smem_size", Special::kDynamicSharedBytes},
        {"%total_smem_size", Special::kTotalSharedBytes},
    };
    const size_t dot = name.find('.');
    const auto which = kSpecials.find(name.substr(0, dot));
    if (which == kSpecials.end()) {
      failed_ = true;
      return {};
    }
    const Row row = NewRow(false);
    const int axis = dot == std::string::npos ? 0 : name[dot + 1] - 'x';
    p_.specials.push_back({row, which->second, axis});
    special_rows_[name] = row;
    return row;
  }

  // --- Instructions ---

  bool Has(const char* word) const { return s_->Has(word); }
  const std::string& Word(size_t i) const {
    static const std::string none;
    return i < s_->words.size() ? s_->words[i] : none;
  }

  void DecodeOne(Instruction& in) {
    const std::string& op = Word(0);
    if (op == "bra") {
      in.is_branch = in.target >= 0;
    } else if (op == "ret" || op == "exit") {
      in.run = &Exit;
    } else if (op == "mov") {
      DecodeMove(in);
    } else if (op == "setp") {
      DecodeCompare(in);
    } else if (op == "selp") {
      DecodeSelect(in);
    } else if ((op == "and" || op == "or" || op == "xor" || op == "not") && Has("pred")) {
      DecodePredicateLogic(in);
    } else if (op == "ld" || op == "st" || op == "ldu") {
      DecodeLoadStore(in);
    } else if (op == "cvta") {
      DecodeCvta(in);
    } else if (op == "mapa") {
      in.run = &MapShared;
      in.r[0] = RowOf(Op(0), true);
      in.r[1] = RowOf(Op(1), true);
      in.r[2] = RowOf(Op(2), false);
    } else if (op == "shfl") {
      DecodeShuffle(in);
    } else if (op == "vote") {
      DecodeVote(in);
    } else if (op == "activemask") {
      in.run = &ActiveMask;
      in.r[0] = RowOf(Op(0), false);
    } else if (op == "elect") {
      in.run = &ElectOne;
      in.r[0] = RowOf(Op(0), false);
      in.r[1] = RowOf(Op(1), false);
      Also(Op(0), in);
    } else if (op == "bar" || op == "barrier") {
      DecodeBarrier(in);
    } else if (op == "mbarrier") {
      DecodeMBarrier(in);
    } else if (op == "fence" || op == "membar") {
      DecodeFence(in);
    } else if (op == "cp") {
      DecodeCopy(in);
    } else if (op == "ldmatrix" || op == "stmatrix") {
      DecodeMatrix(in);
    } else if (op == "mma") {
      DecodeMma(in);
    } else if (op == "wgmma") {
      DecodeWgmma(in);
    } else if (op == "setmaxnreg" || op == "prefetch" || op == "prefetchu" ||
               op == "griddepcontrol" || op == "nanosleep" || op == "applypriority" ||
               op == "discard") {
      in.run = &Nothing;
    } else {
      DecodeAlu(in);
    }
  }

  void DecodeAlu(Instruction& in) {
    const AluOp* op = FindAluOp(AluName(s_->words));
    if (op == nullptr || op->is_compare || Count() != static_cast<size_t>(op->sources) + 1) return;
    in.run = op->run;
    for (int i = 0; i <= op->sources; ++i) in.r[i] = RowOf(Op(i), op->wide[i]);
  }

  void DecodeMove(Instruction& in) {
    const std::string& type = s_->words.back();
    if (type == "pred") {
      in.run = &PredicateLogic;
      in.r[0].at = PredicateOf(Op(0));
      if (Op(1).kind == PtxOperand::kImmediate) {
        in.mode = static_cast<uint8_t>(LogicMode::kConstant);
        in.immediate = Immediate(Op(1));
      } else {
        in.mode = static_cast<uint8_t>(LogicMode::kMove);
        in.r[1].at = PredicateOf(Op(1));
        in.is_signed = Op(1).negated;
      }
      return;
    }
    const int bytes = TypeBytes(type);
    if (Op(0).kind == PtxOperand::kVector || Op(1).kind == PtxOperand::kVector) {
      const bool unpack = Op(0).kind == PtxOperand::kVector;
      const PtxOperand& vector = Op(unpack ? 0 : 1);
      in.run = unpack ? &Unpack : &Pack;
      in.bytes = static_cast<uint8_t>(bytes / static_cast<int>(vector.parts.size()));
      in.list = List(vector, in.bytes == 8);
      in.r[0] = RowOf(Op(unpack ? 1 : 0), bytes == 8);
      return;
    }
    PtxOperand source = Op(1);
    if (source.kind == PtxOperand::kSymbol && source.offset != 0) {
      failed_ = true;  // nvcc adds offsets in instructions of their own
      return;
    }
    DecodeAlu(in);
  }

  // setp.lt[.and].s32 p[|q], a, b[, c]
  void DecodeCompare(Instruction& in) {
    Words words;
    for (const std::string& w : s_->words) {
      if (words.size() == 2 && (w == "and" || w == "or" || w == "xor")) {
        in.mode = w == "and" ? 1 : w == "or" ? 2 : 3;
      } else {
        words.push_back(w);
      }
    }
    const AluOp* op = FindAluOp(AluName(words));
    if (op == nullptr || !op->is_compare) return;
    in.run = op->run;
    in.r[0].at = PredicateOf(Op(0));
    Also(Op(0), in);
    in.r[1] = RowOf(Op(1), op->wide[1]);
    in.r[2] = RowOf(Op(2), op->wide[2]);
    if (in.mode != 0) {
      in.r[3].at = PredicateOf(Op(3));
      in.is_signed = Op(3).negated;
    }
  }

  void DecodeSelect(Instruction& in) {
    const bool wide = TypeBytes(s_->words.back()) == 8;
    in.run = &Select;
    for (size_t i = 0; i < 3; ++i) in.r[i] = RowOf(Op(i), wide);
    in.r[3].at = PredicateOf(Op(3));
    in.is_signed = Op(3).negated;
  }

  void DecodePredicateLogic(Instruction& in) {
    in.run = &PredicateLogic;
    const std::string& op = Word(0);
    in.r[0].at = PredicateOf(Op(0));
    in.r[1].at = PredicateOf(Op(1));
    in.is_signed = Op(1).negated != (op == "not");
    in.mode = static_cast<uint8_t>(op == "and"   ? LogicMode::kAnd
                                   : op == "or"  ? LogicMode::kOr
                                   : op == "xor" ? LogicMode::kXor
                                                 : LogicMode::kMove);
    if (op != "not") {
      in.r[2].at = PredicateOf(Op(2));
      in.has_also = Op(2).negated;
    }
  }

  void DecodeLoadStore(Instruction& in) {
    static const char* kRefused[] = {"acquire", "release", "relaxed", "const"};
    for (const char* word : kRefused) {
      if (Has(word)) return;
    }
    const bool store = Word(0) == "st";
    for (const std::string& w : s_->words) {
      if (w == "global") in.space = Space::kGlobal;
      if (w == "local") in.space = Space::kLocal;
      if (w == "param" || StartsWith(w, "param::")) in.space = Space::kParam;
      if (w == "shared" || StartsWith(w, "shared::")) in.space = Space::kShared;
    }
    const std::string& type = s_->words.back();
    in.bytes = static_cast<uint8_t>(TypeBytes(type));
    if (in.bytes == 0 || in.bytes > 8) return;
    in.is_signed = type[0] == 's';
    const PtxOperand& address = Op(store ? 0 : 1);
    in.list = List(Op(store ? 1 : 0), in.bytes == 8);
    in.run = store ? &Store : &Load;
    if (in.space == Space::kParam && address.kind == PtxOperand::kSymbol) {
      const auto param = k_.param_offsets.find(address.name);
      if (param == k_.param_offsets.end() || store) {
        failed_ = true;
        return;
      }
      in.run = &LoadParam;
      in.immediate = static_cast<int64_t>(param->second) + address.offset;
      return;
    }
    in.r[0] = Address(address, &in.immediate);
  }

  void DecodeCvta(Instruction& in) {
    in.run = &ConvertAddress;
    in.mode = Word(1) == "to" ? 1 : 0;
    const std::string& space = Word(in.mode != 0 ? 2 : 1);
    in.space = StartsWith(space, "shared")  ? Space::kShared
               : StartsWith(space, "local") ? Space::kLocal
               : StartsWith(space, "param") ? Space::kParam
                                            : Space::kGlobal;
    in.r[0] = RowOf(Op(0), true);
    in.r[1] = RowOf(Op(1), true);
  }

  void DecodeShuffle(Instruction& in) {
    if (Word(1) != "sync") return;
    const std::string& mode = Word(2);
    in.run = &Shuffle;
    in.mode = static_cast<uint8_t>(mode == "idx"    ? ShuffleMode::kIndex
                                   : mode == "up"   ? ShuffleMode::kUp
                                   : mode == "down" ? ShuffleMode::kDown
                                                    : ShuffleMode::kButterfly);
    for (size_t i = 0; i < 5; ++i) in.r[i] = RowOf(Op(i), false);
    Also(Op(0), in);
  }

  void DecodeVote(Instruction& in) {
    if (Word(1) != "sync") return;
    const std::string& mode = Word(2);
    in.run = &Vote;
    in.mode = static_cast<uint8_t>(mode == "ballot" ? VoteMode::kBallot
                                   : mode == "any"  ? VoteMode::kAny
                                   : mode == "all"  ? VoteMode::kAll
                                                    : VoteMode::kUniform);
    if (mode == "ballot")
      in.r[0] = RowOf(Op(0), false);
    else
      in.r[0].at = PredicateOf(Op(0));
    in.r[1].at = PredicateOf(Op(1));
    in.is_signed = Op(1).negated;
    in.r[2] = RowOf(Op(2), false);
  }

  void DecodeBarrier(Instruction& in) {
    if (Has("cluster")) {
      in.run = Has("arrive") ? &ClusterArrive : &ClusterWait;
      in.mode = Has("relaxed") ? 1 : 0;
      return;
    }
    if (Has("warp")) {
      in.run = &BarWarpSync;
      in.r[0] = RowOf(Op(0), false);
      return;
    }
    in.run = &Bar;
    in.is_signed = Word(0) == "bar" || Has("aligned");  // aligned: the whole warp executes it
    BarMode mode = Has("arrive") ? BarMode::kArrive : BarMode::kSync;
    if (Has("red")) mode = Has("popc") ? BarMode::kPopc : Has("and") ? BarMode::kAnd : BarMode::kOr;
    in.mode = static_cast<uint8_t>(mode);
    size_t at = 0;
    if (Has("red")) {
      if (mode == BarMode::kPopc)
        in.list = {RowOf(Op(0), false)};
      else
        in.list = {Row{PredicateOf(Op(0)), false}};
      at = 1;
    }
    in.r[0] = RowOf(Op(at), false);
    const bool counted = Count() > at + (Has("red") ? 2 : 1);
    if (counted) {
      in.r[1] = RowOf(Op(at + 1), false);
      in.immediate = 1;
    }
    if (Has("red")) {
      in.also = static_cast<int>(PredicateOf(Op(Count() - 1)));
      in.has_also = Op(Count() - 1).negated;
    }
  }

  void DecodeMBarrier(Instruction& in) {
    const std::string& op = Word(1);
    if (op == "init") {
      in.run = &MBarrierInit;
      in.r[0] = Address(Op(0), &in.immediate);
      in.r[1] = RowOf(Op(1), false);
    } else if (op == "inval") {
      in.run = &MBarrierInvalidate;
      in.r[0] = Address(Op(0), &in.immediate);
    } else if (op == "arrive" && !Has("noComplete")) {
      in.run = &MBarrierArrive;
      in.mode = static_cast<uint8_t>(Has("expect_tx") ? ArriveMode::kArriveExpectTx
                                                      : ArriveMode::kArrive);
      // The state is left out or _ for a barrier of the cluster.
      const size_t at = Op(0).memory ? 0 : 1;
      in.has_also = at == 1 && Op(0).kind == PtxOperand::kRegister;
      if (in.has_also) in.r[0] = RowOf(Op(0), true);
      in.r[1] = Address(Op(at), &in.immediate);
      if (Count() > at + 1) {
        in.r[2] = RowOf(Op(at + 1), false);
        in.bytes = 1;  // there is a count
      }
    } else if (op == "expect_tx") {
      in.run = &MBarrierArrive;
      in.mode = static_cast<uint8_t>(ArriveMode::kExpectTx);
      in.r[1] = Address(Op(0), &in.immediate);
      in.r[2] = RowOf(Op(1), false);
    } else if (op == "try_wait" || op == "test_wait") {
      in.run = &MBarrierWait;
      in.mode = op == "test_wait" ? 1 : 0;
      in.list = {Row{PredicateOf(Op(0)), false}};
      in.r[1] = Address(Op(1), &in.immediate);
      in.r[2] = RowOf(Op(2), !Has("parity"));
    }
  }

  void DecodeFence(Instruction& in) {
    if (Has("mbarrier_init"))
      in.run = &FenceMBarrierInit;
    else if (Has("proxy") && StartsWith(Word(2), "async"))
      in.run = &FenceProxyAsync;
    else
      in.run = &Nothing;  // orders nothing that barriers do not order
  }

  void DecodeCopy(Instruction& in) {
    if (Has("commit_group")) {
      in.run = Has("bulk") ? &BulkCommit : &CpAsyncCommit;
    } else if (Has("wait_all")) {
      in.run = &CpAsyncWait;
      in.mode = 1;
    } else if (Has("wait_group")) {
      in.run = Has("bulk") ? &BulkWait : &CpAsyncWait;
      in.immediate = Immediate(Op(0));
    } else if (Has("bulk")) {
      DecodeBulkCopy(in);
    } else if (Has("mbarrier")) {
      return;
    } else {
      in.run = &CpAsyncIssue;
      int64_t target_offset = 0;
      in.r[0] = Address(Op(0), &target_offset);
      in.r[1] = Address(Op(1), &in.immediate);
      in.list_a = {Row{static_cast<uint32_t>(target_offset), false}};
      in.bytes = static_cast<uint8_t>(Immediate(Op(2)));
      // cp.async dst, src, size{, src-size}{, cache-policy}
      const size_t sizes = Count() - (Has("L2::cache_hint") ? 1 : 0);
      if (sizes > 3) {
        if (Op(3).kind == PtxOperand::kRegister && k_.registers[Op(3).reg].bits == 1) {
          failed_ = true;  // ignore-src
          return;
        }
        in.has_also = true;
        in.r[2] = RowOf(Op(3), false);
      }
    }
  }

  // [map, {c0, c1}]
  void MapAndCoordinates(const PtxOperand& o, Row* map, Instruction& in) {
    if (o.kind != PtxOperand::kVector || o.parts.size() != 2 || o.parts[0].offset != 0) {
      failed_ = true;
      return;
    }
    *map = RowOf(o.parts[0], true);
    in.list = List(o.parts[1], false);
  }

  void DecodeBulkCopy(Instruction& in) {
    for (const PtxOperand& o : s_->operands) {
      if (o.offset != 0) failed_ = true;
    }
    if (Has("prefetch")) {
      in.run = &Nothing;
      return;
    }
    if (Has("im2col") || Has("gather4") || Has("scatter4") || Has("reduce")) return;
    const bool tensor = Has("tensor");
    const size_t first_space = tensor ? 5 : 3;
    if (!tensor && Word(first_space) == "global") {
      in.run = &BulkStoreContiguous;
      for (size_t i = 0; i < 3; ++i) in.r[i] = RowOf(Op(i), i == 0);
    } else if (!tensor) {
      if (!Has("global")) return;
      in.run = &BulkLoadContiguous;
      in.r[0] = RowOf(Op(0), false);
      in.r[1] = RowOf(Op(1), true);
      in.r[2] = RowOf(Op(2), false);
      in.r[3] = RowOf(Op(3), false);
    } else if (Word(first_space) == "global") {
      in.run = &BulkTensorStore;
      MapAndCoordinates(Op(0), &in.r[0], in);
      in.r[1] = RowOf(Op(1), false);
    } else {
      in.run = &BulkTensorLoad;
      in.r[0] = RowOf(Op(0), false);
      MapAndCoordinates(Op(1), &in.r[1], in);
      in.r[2] = RowOf(Op(2), false);
      if (Has("multicast::cluster")) {
        in.has_also = true;
        in.r[3] = RowOf(Op(3), false);
      }
    }
  }

  void DecodeMatrix(Instruction& in) {
    if (!Has("m8n8") || !Has("b16")) return;
    const bool store = Word(0) == "stmatrix";
    in.run = store ? &StoreMatrix : &LoadMatrix;
    in.mode = Has("trans") ? 1 : 0;
    in.list = List(Op(store ? 1 : 0), false);
    in.r[0] = Address(Op(store ? 0 : 1), &in.immediate);
  }

  // mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32
  void DecodeMma(Instruction& in) {
    const std::string& shape = Word(3);
    const std::string& type = Word(7);
    if (Word(6) != "f32" || Word(9) != "f32" || Word(8) != type) return;
    if (type == "tf32") {
      if (shape != "m16n8k8" && shape != "m16n8k4") return;
      in.mode = static_cast<uint8_t>(MmaType::kTf32);
    } else if (type == "bf16" || type == "f16") {
      if (shape != "m16n8k16" && shape != "m16n8k8") return;
      in.mode = static_cast<uint8_t>(type == "bf16" ? MmaType::kBf16 : MmaType::kFp16);
    } else {
      return;
    }
    in.run = &Mma;
    in.list = List(Op(0), false);
    in.list_a = List(Op(1), false);
    in.list_b = List(Op(2), false);
    in.list_c = List(Op(3), false);
    if (in.list_a.size() != 2 * in.list_b.size() || in.list.size() != 4 || in.list_c.size() != 4) {
      failed_ = true;
    }
  }

  // wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {d}, a, b, p, 1, 1[, ta], tb
  void DecodeWgmma(Instruction& in) {
    const std::string& op = Word(1);
    if (op == "fence") in.run = &WgmmaFence;
    if (op == "commit_group") in.run = &WgmmaCommit;
    if (op == "wait_group") {
      in.run = &WgmmaWait;
      in.immediate = Immediate(Op(0));
    }
    if (op != "mma_async") return;
    const std::string& shape = Word(4);
    const std::string& type = Word(6);
    if (Word(5) != "f32" || Word(7) != type || (type != "bf16" && type != "f16") ||
        !StartsWith(shape, "m64n") || shape.find("k16") == std::string::npos) {
      return;
    }
    const int n = std::atoi(shape.c_str() + 4);
    in.run = &WgmmaIssue;
    in.mode = static_cast<uint8_t>(type == "bf16" ? MmaType::kBf16 : MmaType::kFp16);
    in.bytes = static_cast<uint8_t>(n / 8);
    in.list = List(Op(0), false);
    const bool a_in_registers = Op(1).kind == PtxOperand::kVector;
    if (a_in_registers)
      in.list_a = List(Op(1), false);
    else
      in.r[0] = RowOf(Op(1), true);
    in.r[1] = RowOf(Op(2), true);
    if (Op(3).kind == PtxOperand::kRegister) {
      in.r[2].at = PredicateOf(Op(3));
    } else {
      failed_ = true;
    }
    const int64_t scale_a = Immediate(Op(4)), scale_b = Immediate(Op(5));
    const uint32_t negate = (scale_a < 0 ? 1 : 0) | (scale_b < 0 ? 2 : 0);
    in.list_c = {Row{negate, false}};
    const auto transposed = [&](size_t i) {
      return Row{static_cast<uint32_t>(Immediate(Op(i))), false};
    };
    if (a_in_registers)
      in.list_b = {Row{}, transposed(6)};
    else
      in.list_b = {transposed(6), transposed(7)};
    if (in.list.size() != static_cast<size_t>(n) / 2) failed_ = true;
  }

  PtxKernel k_;
  Program p_;
  const PtxStatement* s_ = nullptr;
  bool failed_ = false;
  std::vector<Row> rows_;  // of the registers
  std::map<std::pair<uint64_t, bool>, Row> constants_;
  std::map<std::string, Row> special_rows_;
  std::map<std::string, uint32_t> opcodes_;
};

}  // namespace

const std::string& Program::File(int file) const {
  static const std::string none = "?";
  return file > 0 && static_cast<size_t>(file) < files.size() ? files[file] : none;
}

std::string PlainName(const std::string& mangled) {
  char* text = abi::__cxa_demangle(mangled.c_str(), nullptr, nullptr, nullptr);
  std::string s = text != nullptr ? text : mangled;
  std::free(text);
  if (StartsWith(s, "void ")) s = s.substr(5);
  // Up to the arguments: the last ( at depth 0.
  int depth = 0;
  for (size_t i = s.size(); i-- > 0;) {
    if (s[i] == ')') ++depth;
    if (s[i] == '(' && --depth == 0) return s.substr(0, i);
  }
  return s;
}

std::vector<std::shared_ptr<const Program>> ParsePtx(const std::string& text) {
  PtxFile file = ParsePtxSyntax(text);
  std::vector<std::shared_ptr<const Program>> out;
  for (PtxKernel& k : file.kernels) out.push_back(Decoder(std::move(k), file.files).Decode());
  return out;
}

}  // namespace fedumm::cuda_machine
