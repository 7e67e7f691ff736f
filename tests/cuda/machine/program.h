// A kernel as the interpreter runs it: PTX decoded into function pointers and offsets into a
// register file in which each register is a row of 32 lanes.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace fedumm::cuda_machine {

struct Warp;
struct Instruction;

// Executes one instruction for the lanes in `mask`, which is never empty. The pc of the warp
// already points behind it.
using Handler = void (*)(Warp& warp, const Instruction& in, uint32_t mask);

// A register row: 32 lanes of 4 bytes, or of 8 if `wide`. For predicates the number of the
// predicate.
struct Row {
  uint32_t at = 0;
  bool wide = false;
};

enum class Space : uint8_t { kGeneric, kGlobal, kShared, kLocal, kParam };

struct Instruction {
  Handler run = nullptr;
  Row r[6];            // destination first, then sources, as the handler expects them
  int predicate = -1;  // guard
  bool negated = false;
  bool is_branch = false;
  bool has_also = false;  // a second destination, the predicate `also`
  int also = 0;
  int target = -1;
  int64_t immediate = 0;  // offset of an address, or what the opcode has
  uint8_t bytes = 0;      // of an element
  bool is_signed = false;
  Space space = Space::kGeneric;
  uint8_t mode = 0;                         // variants of an opcode
  std::vector<Row> list;                    // elements of a vector operand
  std::vector<Row> list_a, list_b, list_c;  // of mma and wgmma
  uint32_t location = 0;                    // index into Program::locations
  uint32_t opcode = 0;                      // index into Program::opcodes
};

struct SourceLocation {
  int file = 0, line = 0;
  int inlined_file = 0, inlined_line = 0;  // where the function was inlined; 0: it was not
};

// What a row that is no register holds from the start.
struct Constant {
  Row row;
  uint64_t value = 0;
};
enum class Special : uint8_t {
  kTid,
  kNtid,
  kCtaid,
  kNctaid,  // with .x .y .z
  kLaneId,
  kWarpId,
  kLaneMaskEq,
  kLaneMaskLt,
  kLaneMaskLe,
  kLaneMaskGt,
  kLaneMaskGe,
  kClusterCtaRank,
  kClusterNctaRank,
  kClusterCtaid,
  kClusterNctaid,
  kClusterId,
  kNclusterId,
  kDynamicSharedBytes,
  kTotalSharedBytes,
};
struct SpecialRow {
  Row row;
  Special which;
  int axis = 0;
};

struct Param {
  uint32_t offset = 0, bytes = 0;
};

struct Program {
  std::string name;  // demangled, without the arguments
  std::string mangled;
  std::vector<Param> params;
  uint32_t param_bytes = 0;
  uint32_t register_bytes = 0;
  uint32_t predicates = 0;
  std::vector<Constant> constants;
  std::vector<SpecialRow> specials;
  uint32_t static_shared_bytes = 0;  // from kSharedBase on
  uint32_t dynamic_shared_offset = 0;
  uint32_t local_bytes = 0;         // a thread
  uint32_t cluster[3] = {0, 0, 0};  // required; 0: not stated
  uint32_t max_threads = 0;         // 0: not stated
  std::vector<Instruction> code;
  std::vector<SourceLocation> locations;
  std::vector<std::string> opcodes;
  std::vector<std::string> files;

  const std::string& File(int file) const;
};

// The kernels of a PTX file.
std::vector<std::shared_ptr<const Program>> ParsePtx(const std::string& text);

// "void f<int>(float*)" -> "f<int>"
std::string PlainName(const std::string& mangled);

}  // namespace fedumm::cuda_machine
