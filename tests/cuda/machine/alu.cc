#include "tests/cuda/machine/alu.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <tuple>
#include <type_traits>
#include <unordered_map>
#include <utility>

#include "tests/cuda/machine/emulator.h"
#include "tests/cuda/machine/numbers.h"

namespace fedumm::cuda_machine {
namespace {

struct Fp16 {
  uint16_t bits;
  static float ToFloat(Fp16 h) { return FromFp16(h.bits); }
  static Fp16 Round(float f) { return {ToFp16(f)}; }
};
struct Bf16 {
  uint16_t bits;
  static float ToFloat(Bf16 h) { return FromBf16(h.bits); }
  static Bf16 Round(float f) { return {ToBf16(f)}; }
};
template <typename H>
struct Pair {
  H low, high;
};

// A lane of a row, by the size of the value that an instruction sees in it.
template <typename T>
using Lane = std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>;

template <typename T>
inline T Read(Lane<T> lane) {
  if constexpr (sizeof(T) == sizeof(Lane<T>)) {
    return std::bit_cast<T>(lane);
  } else {
    T v;
    std::memcpy(&v, &lane, sizeof v);
    return v;
  }
}

template <typename T>
inline Lane<T> Write(T value) {
  if constexpr (sizeof(T) == sizeof(Lane<T>)) {
    return std::bit_cast<Lane<T>>(value);
  } else {
    Lane<T> lane = 0;
    std::memcpy(&lane, &value, sizeof value);
    return lane;
  }
}

template <typename T>
inline Lane<T>* RowOf(Warp& w, Row row) {
  if constexpr (sizeof(T) == 8)
    return w.Wide(row);
  else
    return w.Narrow(row);
}

// A register may be wider than the type that an instruction gives to it (ISA, "Operand size
// exceeding instruction-type size").
template <typename T>
inline bool Fits(Row row) {
  return row.wide == (sizeof(T) == 8);
}

template <typename D, typename F, typename... S>
void Apply(Warp& w, const Instruction& in, uint32_t mask) {
  [&]<size_t... I>(std::index_sequence<I...>) {
    if (mask == ~uint32_t{0} && Fits<D>(in.r[0]) && (Fits<S>(in.r[I + 1]) && ...)) {
      Lane<D>* d = RowOf<D>(w, in.r[0]);
      const auto sources = std::make_tuple(RowOf<S>(w, in.r[I + 1])...);
      // Rows are equal or disjoint.
#pragma GCC ivdep
      for (int lane = 0; lane < 32; ++lane) {
        d[lane] = Write<D>(F{}(Read<S>(std::get<I>(sources)[lane])...));
      }
      return;
    }
    for (; mask != 0; mask &= mask - 1) {
      const int lane = std::countr_zero(mask);
      const D d = F{}(Read<S>(static_cast<Lane<S>>(w.Get(in.r[I + 1], lane)))...);
      if constexpr (std::is_signed_v<D> && std::is_integral_v<D>) {
        w.Set(in.r[0], lane, static_cast<uint64_t>(static_cast<int64_t>(d)));
      } else {
        w.Set(in.r[0], lane, Write<D>(d));
      }
    }
  }
  (std::index_sequence_for<S...>());
}

// setp: in.mode combines with the predicate r[3]: 1 and, 2 or, 3 xor; `is_signed` negates it.
template <typename T, typename F>
void Compare(Warp& w, const Instruction& in, uint32_t mask) {
  uint32_t bits = 0;
  if (Fits<T>(in.r[1]) && Fits<T>(in.r[2])) {
    const Lane<T>* a = RowOf<T>(w, in.r[1]);
    const Lane<T>* b = RowOf<T>(w, in.r[2]);
    Lane<T> flags[32];
    for (int lane = 0; lane < 32; ++lane) flags[lane] = F{}(Read<T>(a[lane]), Read<T>(b[lane]));
    for (int lane = 0; lane < 32; ++lane) bits |= static_cast<uint32_t>(flags[lane]) << lane;
  } else {
    for (int lane = 0; lane < 32; ++lane) {
      const bool flag = F{}(Read<T>(static_cast<Lane<T>>(w.Get(in.r[1], lane))),
                            Read<T>(static_cast<Lane<T>>(w.Get(in.r[2], lane))));
      bits |= uint32_t{flag} << lane;
    }
  }
  uint32_t inverse = ~bits;
  if (in.mode != 0) {
    const uint32_t with = in.is_signed ? ~w.predicates[in.r[3].at] : w.predicates[in.r[3].at];
    const auto combine = [&](uint32_t x) {
      return in.mode == 1 ? x & with : in.mode == 2 ? x | with : x ^ with;
    };
    bits = combine(bits);
    inverse = combine(inverse);
  }
  uint32_t& p = w.predicates[in.r[0].at];
  p = (p & ~mask) | (bits & mask);
  if (in.has_also) {
    uint32_t& q = w.predicates[in.also];
    q = (q & ~mask) | (inverse & mask);
  }
}

template <typename T>
std::string TypeName() {
  std::string name = std::is_floating_point_v<T> ? "f" : std::is_signed_v<T> ? "s" : "u";
  name.append(std::to_string(sizeof(T) * 8));
  return name;
}

class Table {
 public:
  Table() {
    AddIntegers();
    AddBits();
    AddFloats<float>();
    AddFloats<double>();
    AddApproximations();
    AddHalves<Fp16>("f16");
    AddHalves<Bf16>("bf16");
    AddComparisons();
    AddIntegerConversions();
    AddFloatConversions();
  }
  std::unordered_map<std::string, AluOp> ops;

 private:
  template <typename D, typename... S, typename F>
  void Add(const std::string& name, F) {
    AluOp op;
    op.run = &Apply<D, F, S...>;
    op.sources = sizeof...(S);
    const bool wide[] = {sizeof(D) == 8, (sizeof(S) == 8)...};
    std::copy(std::begin(wide), std::end(wide), op.wide);
    ops[name] = op;
  }
  template <typename T, typename F>
  void AddCompare(const std::string& name, F) {
    AluOp op;
    op.run = &Compare<T, F>;
    op.sources = 2;
    op.is_compare = true;
    op.wide[1] = op.wide[2] = sizeof(T) == 8;
    ops[name] = op;
  }

  template <typename T>
  void AddInteger() {
    using U = std::make_unsigned_t<T>;
    using Product =
        std::conditional_t<sizeof(T) == 8,
                           std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>,
                           std::conditional_t<std::is_signed_v<T>, int64_t, uint64_t>>;
    constexpr int kBits = sizeof(T) * 8;
    const std::string t = "." + TypeName<T>();
    Add<U, U, U>("add" + t, [](U a, U b) { return static_cast<U>(a + b); });
    Add<U, U, U>("sub" + t, [](U a, U b) { return static_cast<U>(a - b); });
    Add<T, T, T>("min" + t, [](T a, T b) { return std::min(a, b); });
    Add<T, T, T>("max" + t, [](T a, T b) { return std::max(a, b); });
    Add<U, U, U>("mul.lo" + t, [](U a, U b) { return static_cast<U>(uint64_t{a} * b); });
    Add<U, U, U, U>("mad.lo" + t,
                    [](U a, U b, U c) { return static_cast<U>(uint64_t{a} * b + c); });
    Add<T, T, T>("mul.hi" + t,
                 [](T a, T b) { return static_cast<T>((Product{a} * Product{b}) >> kBits); });
    Add<U, T, T, U>("mad.hi" + t, [](T a, T b, U c) {
      return static_cast<U>(static_cast<U>((Product{a} * Product{b}) >> kBits) + c);
    });
    // Division by zero gives all ones, as ptxas' code does for unsigned operands.
    Add<T, T, T>("div" + t, [](T a, T b) {
      if (b == 0) return static_cast<T>(-1);
      if (std::is_signed_v<T> && b == static_cast<T>(-1)) return static_cast<T>(U{0} - U(a));
      return static_cast<T>(a / b);
    });
    Add<T, T, T>("rem" + t, [](T a, T b) {
      if (b == 0) return a;
      if (std::is_signed_v<T> && b == static_cast<T>(-1)) return T{0};
      return static_cast<T>(a % b);
    });
    Add<T, T, uint32_t>("shr" + t, [](T a, uint32_t b) {
      if (std::is_signed_v<T>) return static_cast<T>(a >> std::min<uint32_t>(b, kBits - 1));
      return b >= kBits ? T{0} : static_cast<T>(a >> b);
    });
    if constexpr (std::is_signed_v<T>) {
      Add<U, U>("neg" + t, [](U a) { return static_cast<U>(U{0} - a); });
      Add<U, T>("abs" + t, [](T a) { return static_cast<U>(a < 0 ? U{0} - U(a) : U(a)); });
    }
    if constexpr (sizeof(T) < 8) {
      using W = std::conditional_t<sizeof(T) == 2,
                                   std::conditional_t<std::is_signed_v<T>, int32_t, uint32_t>,
                                   std::conditional_t<std::is_signed_v<T>, int64_t, uint64_t>>;
      using UW = std::make_unsigned_t<W>;
      Add<UW, T, T>("mul.wide" + t, [](T a, T b) { return static_cast<UW>(W{a} * W{b}); });
      Add<UW, T, T, UW>("mad.wide" + t,
                        [](T a, T b, UW c) { return static_cast<UW>(W{a} * W{b}) + c; });
    }
  }

  void AddIntegers() {
    AddInteger<int16_t>();
    AddInteger<uint16_t>();
    AddInteger<int32_t>();
    AddInteger<uint32_t>();
    AddInteger<int64_t>();
    AddInteger<uint64_t>();
  }

  template <typename U>
  void AddBitwise() {
    constexpr int kBits = sizeof(U) * 8;
    const std::string t = ".b" + std::to_string(kBits);
    Add<U, U, U>("and" + t, [](U a, U b) { return static_cast<U>(a & b); });
    Add<U, U, U>("or" + t, [](U a, U b) { return static_cast<U>(a | b); });
    Add<U, U, U>("xor" + t, [](U a, U b) { return static_cast<U>(a ^ b); });
    Add<U, U>("not" + t, [](U a) { return static_cast<U>(~a); });
    Add<U, U>("cnot" + t, [](U a) { return static_cast<U>(a == 0); });
    Add<U, U>("mov" + t, [](U a) { return a; });
    Add<U, U, uint32_t>("shl" + t, [](U a, uint32_t b) {
      return b >= kBits ? U{0} : static_cast<U>(uint64_t{a} << b);
    });
    Add<U, U, uint32_t>("shr" + t,
                        [](U a, uint32_t b) { return b >= kBits ? U{0} : static_cast<U>(a >> b); });
    for (const char* type : {".u", ".s", ".f"}) {
      const std::string same = type + std::to_string(kBits);
      ops["mov" + same] = ops["mov" + t];
    }
    if constexpr (kBits >= 32) {
      Add<uint32_t, U>("popc" + t, [](U a) { return static_cast<uint32_t>(std::popcount(a)); });
      Add<uint32_t, U>("clz" + t, [](U a) { return static_cast<uint32_t>(std::countl_zero(a)); });
      Add<U, U>("brev" + t, [](U a) {
        U r = 0;
        for (int i = 0; i < kBits; ++i) r |= ((a >> i) & 1) << (kBits - 1 - i);
        return r;
      });
      Add<U, U, U, uint32_t, uint32_t>("bfi" + t, [](U a, U b, uint32_t at, uint32_t length) {
        at &= 0xff, length &= 0xff;
        U field = 0;
        if (at < kBits) field = (length >= kBits ? ~U{0} : (U{1} << length) - 1) << at;
        return static_cast<U>((b & ~field) | (at < kBits ? (a << at) & field : 0));
      });
      AddExtract<U>();
      AddExtract<std::make_signed_t<U>>();
    }
  }

  template <typename T>
  void AddExtract() {
    using U = std::make_unsigned_t<T>;
    constexpr uint32_t kBits = sizeof(T) * 8;
    Add<U, U, uint32_t, uint32_t>("bfe." + TypeName<T>(), [](U a, uint32_t at, uint32_t length) {
      at &= 0xff, length &= 0xff;
      // ISA: the sign is bit min(at + length - 1, msb), 0 for unsigned or an empty field.
      const bool sign = std::is_signed_v<T> && length != 0 &&
                        ((a >> std::min(at + length - 1, kBits - 1)) & 1) != 0;
      U out = sign ? ~U{0} : U{0};
      for (uint32_t i = 0; i < length && i < kBits && at + i < kBits; ++i) {
        out = static_cast<U>((out & ~(U{1} << i)) | ((a >> (at + i)) & 1) << i);
      }
      return out;
    });
    Add<uint32_t, U>("bfind." + TypeName<T>(), [](U a) {
      if (std::is_signed_v<T> && (a >> (kBits - 1)) != 0) a = static_cast<U>(~a);
      return a == 0 ? ~uint32_t{0} : kBits - 1 - static_cast<uint32_t>(std::countl_zero(a));
    });
  }

  void AddBits() {
    AddBitwise<uint16_t>();
    AddBitwise<uint32_t>();
    AddBitwise<uint64_t>();
    Add<uint32_t, uint32_t, uint32_t, uint32_t, uint32_t>(
        "lop3.b32", [](uint32_t a, uint32_t b, uint32_t c, uint32_t table) {
          uint32_t out = 0;
          if (table & 0x80) out |= a & b & c;
          if (table & 0x40) out |= a & b & ~c;
          if (table & 0x20) out |= a & ~b & c;
          if (table & 0x10) out |= a & ~b & ~c;
          if (table & 0x08) out |= ~a & b & c;
          if (table & 0x04) out |= ~a & b & ~c;
          if (table & 0x02) out |= ~a & ~b & c;
          if (table & 0x01) out |= ~a & ~b & ~c;
          return out;
        });
    Add<uint32_t, uint32_t, uint32_t, uint32_t>(
        "prmt.b32", [](uint32_t a, uint32_t b, uint32_t selector) {
          const uint64_t bytes = uint64_t{b} << 32 | a;
          uint32_t out = 0;
          for (int i = 0; i < 4; ++i) {
            const uint32_t s = selector >> (4 * i) & 15;
            auto byte = static_cast<uint8_t>(bytes >> (8 * (s & 7)));
            if ((s & 8) != 0) byte = (byte & 0x80) != 0 ? 0xff : 0;  // replicates the sign
            out |= uint32_t{byte} << (8 * i);
          }
          return out;
        });
    using U = uint32_t;
    Add<U, U, U, U>("shf.l.wrap.b32", [](U a, U b, U n) { return FunnelLeft(a, b, n & 31); });
    Add<U, U, U, U>("shf.r.wrap.b32", [](U a, U b, U n) { return FunnelRight(a, b, n & 31); });
    Add<U, U, U, U>("shf.l.clamp.b32",
                    [](U a, U b, U n) { return FunnelLeft(a, b, std::min(n, 32u)); });
    Add<U, U, U, U>("shf.r.clamp.b32",
                    [](U a, U b, U n) { return FunnelRight(a, b, std::min(n, 32u)); });
  }
  // Of b:a shifted by n, the upper word, and the lower.
  static uint32_t FunnelLeft(uint32_t a, uint32_t b, uint32_t n) {
    return static_cast<uint32_t>(((uint64_t{b} << 32 | a) << n) >> 32);
  }
  static uint32_t FunnelRight(uint32_t a, uint32_t b, uint32_t n) {
    return static_cast<uint32_t>((uint64_t{b} << 32 | a) >> n);
  }

  template <typename T>
  void AddFloats() {
    const std::string t = "." + TypeName<T>();
    Add<T, T, T>("add" + t, [](T a, T b) { return a + b; });
    Add<T, T, T>("sub" + t, [](T a, T b) { return a - b; });
    Add<T, T, T>("mul" + t, [](T a, T b) { return a * b; });
    Add<T, T, T>("div" + t, [](T a, T b) { return a / b; });
    Add<T, T, T, T>("fma" + t, [](T a, T b, T c) { return std::fma(a, b, c); });
    ops["mad" + t] = ops["fma" + t];
    Add<T, T, T>("min" + t, [](T a, T b) { return std::fmin(a, b); });
    Add<T, T, T>("max" + t, [](T a, T b) { return std::fmax(a, b); });
    Add<T, T, T>("min.NaN" + t, [](T a, T b) {
      return std::isnan(a) || std::isnan(b) ? std::numeric_limits<T>::quiet_NaN() : std::fmin(a, b);
    });
    Add<T, T, T>("max.NaN" + t, [](T a, T b) {
      return std::isnan(a) || std::isnan(b) ? std::numeric_limits<T>::quiet_NaN() : std::fmax(a, b);
    });
    Add<T, T>("neg" + t, [](T a) { return -a; });
    Add<T, T>("abs" + t, [](T a) { return std::fabs(a); });
    Add<T, T>("sqrt" + t, [](T a) { return std::sqrt(a); });
    Add<T, T>("rcp" + t, [](T a) { return 1 / a; });
    Add<T, T, T>("copysign" + t, [](T a, T b) { return std::copysign(b, a); });
  }

  // Rounded from double; the hardware's results may differ in the last bits.
  void AddApproximations() {
    Add<float, float>("rsqrt.f32",
                      [](float a) { return static_cast<float>(1 / std::sqrt(double{a})); });
    Add<double, double>("rsqrt.f64", [](double a) { return 1 / std::sqrt(a); });
    Add<float, float>("ex2.f32", [](float a) { return static_cast<float>(std::exp2(double{a})); });
    Add<float, float>("lg2.f32", [](float a) { return static_cast<float>(std::log2(double{a})); });
    Add<float, float>("sin.f32", [](float a) { return static_cast<float>(std::sin(double{a})); });
    Add<float, float>("cos.f32", [](float a) { return static_cast<float>(std::cos(double{a})); });
    Add<float, float>("tanh.f32", [](float a) { return static_cast<float>(std::tanh(double{a})); });
    Add<float, float>("cvt.sat.f32.f32", [](float a) { return a > 0 ? std::min(a, 1.0f) : 0.0f; });
    Add<float, float, float, float>("fma.sat.f32", [](float a, float b, float c) {
      const float d = std::fma(a, b, c);
      return d > 0 ? std::min(d, 1.0f) : 0.0f;
    });
  }

  template <typename H>
  void AddHalves(const std::string& t) {
    using P = Pair<H>;
    const auto add = [this, &t](const std::string& name, auto f) {
      using F = decltype(f);
      Add<H, H, H>(name + "." + t, [](H a, H b) { return F{}(a, b); });
      Add<P, P, P>(name + "." + t + "x2", [](P a, P b) {
        return P{F{}(a.low, b.low), F{}(a.high, b.high)};
      });
    };
    add("add",
        [](H a, H b) { return H::Round(RoundToOdd(double{H::ToFloat(a)} + H::ToFloat(b))); });
    add("sub",
        [](H a, H b) { return H::Round(RoundToOdd(double{H::ToFloat(a)} - H::ToFloat(b))); });
    add("mul", [](H a, H b) { return H::Round(H::ToFloat(a) * H::ToFloat(b)); });
    add("min", [](H a, H b) { return H::Round(std::fmin(H::ToFloat(a), H::ToFloat(b))); });
    add("max", [](H a, H b) { return H::Round(std::fmax(H::ToFloat(a), H::ToFloat(b))); });
    const auto fma = [](H a, H b, H c) {
      return H::Round(RoundToOdd(double{H::ToFloat(a)} * H::ToFloat(b) + H::ToFloat(c)));
    };
    Add<H, H, H, H>("fma." + t, fma);
    Add<P, P, P, P>("fma." + t + "x2", [](P a, P b, P c) {
      using F = decltype(fma);
      return P{F{}(a.low, b.low, c.low), F{}(a.high, b.high, c.high)};
    });
    Add<uint16_t, uint16_t>("neg." + t,
                            [](uint16_t a) { return static_cast<uint16_t>(a ^ 0x8000); });
    Add<uint16_t, uint16_t>("abs." + t,
                            [](uint16_t a) { return static_cast<uint16_t>(a & 0x7fff); });
    Add<uint32_t, uint32_t>("neg." + t + "x2", [](uint32_t a) { return a ^ 0x80008000; });
    Add<uint32_t, uint32_t>("abs." + t + "x2", [](uint32_t a) { return a & 0x7fff7fff; });
    ops["mov." + t] = ops["mov.b16"];
    AddFloatComparisons<H>(t, [](H a) { return H::ToFloat(a); });
  }

  template <typename T, typename V>
  void AddFloatComparisons(const std::string& t, V) {
    const auto add = [this, &t](const char* name, auto f) {
      using F = decltype(f);
      AddCompare<T>(std::string("setp.") + name + "." + t,
                    [](T a, T b) { return F{}(V{}(a), V{}(b)); });
    };
    add("eq", [](auto a, auto b) { return a == b; });
    add("ne", [](auto a, auto b) { return a != b && !std::isnan(a) && !std::isnan(b); });
    add("lt", [](auto a, auto b) { return a < b; });
    add("le", [](auto a, auto b) { return a <= b; });
    add("gt", [](auto a, auto b) { return a > b; });
    add("ge", [](auto a, auto b) { return a >= b; });
    add("equ", [](auto a, auto b) { return !(a < b || a > b); });
    add("neu", [](auto a, auto b) { return !(a == b); });
    add("ltu", [](auto a, auto b) { return !(a >= b); });
    add("leu", [](auto a, auto b) { return !(a > b); });
    add("gtu", [](auto a, auto b) { return !(a <= b); });
    add("geu", [](auto a, auto b) { return !(a < b); });
    add("num", [](auto a, auto b) { return !std::isnan(a) && !std::isnan(b); });
    add("nan", [](auto a, auto b) { return std::isnan(a) || std::isnan(b); });
  }

  template <typename T>
  void AddIntegerComparisons(const std::string& t) {
    const auto add = [this, &t](const char* name, auto f) {
      AddCompare<T>(std::string("setp.") + name + "." + t, f);
    };
    add("eq", [](T a, T b) { return a == b; });
    add("ne", [](T a, T b) { return a != b; });
    add("lt", [](T a, T b) { return a < b; });
    add("le", [](T a, T b) { return a <= b; });
    add("gt", [](T a, T b) { return a > b; });
    add("ge", [](T a, T b) { return a >= b; });
    add("lo", [](T a, T b) { return a < b; });
    add("ls", [](T a, T b) { return a <= b; });
    add("hi", [](T a, T b) { return a > b; });
    add("hs", [](T a, T b) { return a >= b; });
  }

  void AddComparisons() {
    AddIntegerComparisons<int16_t>("s16");
    AddIntegerComparisons<uint16_t>("u16");
    AddIntegerComparisons<uint16_t>("b16");
    AddIntegerComparisons<int32_t>("s32");
    AddIntegerComparisons<uint32_t>("u32");
    AddIntegerComparisons<uint32_t>("b32");
    AddIntegerComparisons<int64_t>("s64");
    AddIntegerComparisons<uint64_t>("u64");
    AddIntegerComparisons<uint64_t>("b64");
    AddFloatComparisons<float>("f32", [](float a) { return a; });
    AddFloatComparisons<double>("f64", [](double a) { return a; });
  }

  template <typename D, typename... S>
  void AddConversionsTo() {
    (Add<D, S>("cvt." + TypeName<D>() + "." + TypeName<S>(), [](S a) { return static_cast<D>(a); }),
     ...);
  }
  template <typename... T>
  void AddConversionsAmong() {
    (AddConversionsTo<T, T...>(), ...);
  }
  void AddIntegerConversions() {
    AddConversionsAmong<int8_t, uint8_t, int16_t, uint16_t, int32_t, uint32_t, int64_t, uint64_t>();
  }

  template <typename F, typename I>
  void AddConversionsWith() {
    const std::string f = TypeName<F>(), i = TypeName<I>();
    Add<F, I>("cvt." + f + "." + i, [](I a) { return static_cast<F>(a); });
    if constexpr (sizeof(I) >= 4) {
      const auto add = [&](const char* mode, auto round) {
        using R = decltype(round);
        // ISA: clamped to the range, NaN gives 0.
        Add<I, F>(std::string("cvt.") + mode + "." + i + "." + f, [](F a) {
          using Limits = std::numeric_limits<I>;
          if (std::isnan(a)) return I{0};
          const F r = R{}(a);
          if (r <= static_cast<F>(Limits::min())) return Limits::min();
          if (r >= static_cast<F>(Limits::max())) return Limits::max();
          return static_cast<I>(r);
        });
      };
      add("rzi", [](F a) { return std::trunc(a); });
      add("rni", [](F a) { return std::nearbyint(a); });
      add("rmi", [](F a) { return std::floor(a); });
      add("rpi", [](F a) { return std::ceil(a); });
    }
  }
  template <typename F>
  void AddRoundings() {
    const std::string t = "." + TypeName<F>() + "." + TypeName<F>();
    Add<F, F>("cvt.rzi" + t, [](F a) { return std::trunc(a); });
    Add<F, F>("cvt.rni" + t, [](F a) { return std::nearbyint(a); });
    Add<F, F>("cvt.rmi" + t, [](F a) { return std::floor(a); });
    Add<F, F>("cvt.rpi" + t, [](F a) { return std::ceil(a); });
  }
  template <typename... I>
  void AddConversionsWithAll() {
    (AddConversionsWith<float, I>(), ...);
    (AddConversionsWith<double, I>(), ...);
  }
  void AddFloatConversions() {
    AddConversionsWithAll<int8_t, uint8_t, int16_t, uint16_t, int32_t, uint32_t, int64_t,
                          uint64_t>();
    AddRoundings<float>();
    AddRoundings<double>();
    Add<double, float>("cvt.f64.f32", [](float a) { return double{a}; });
    Add<float, double>("cvt.f32.f64", [](double a) { return static_cast<float>(a); });
    Add<float, Fp16>("cvt.f32.f16", [](Fp16 a) { return Fp16::ToFloat(a); });
    Add<float, Bf16>("cvt.f32.bf16", [](Bf16 a) { return Bf16::ToFloat(a); });
    Add<Fp16, float>("cvt.f16.f32", [](float a) { return Fp16::Round(a); });
    Add<Bf16, float>("cvt.bf16.f32", [](float a) { return Bf16::Round(a); });
    Add<uint16_t, float>("cvt.rz.bf16.f32", [](float a) { return ToBf16TowardZero(a); });
    // The first source goes to the upper half.
    Add<uint32_t, float, float>(
        "cvt.f16x2.f32", [](float a, float b) { return uint32_t{ToFp16(a)} << 16 | ToFp16(b); });
    Add<uint32_t, float, float>(
        "cvt.bf16x2.f32", [](float a, float b) { return uint32_t{ToBf16(a)} << 16 | ToBf16(b); });
    Add<uint32_t, float, float>("cvt.rz.bf16x2.f32", [](float a, float b) {
      return uint32_t{ToBf16TowardZero(a)} << 16 | ToBf16TowardZero(b);
    });
    Add<uint32_t, float>("cvt.rna.tf32.f32", [](float a) { return ToTf32(a); });
  }
};

}  // namespace

const AluOp* FindAluOp(const std::string& opcode) {
  static const Table table;
  const auto it = table.ops.find(opcode);
  return it == table.ops.end() ? nullptr : &it->second;
}

}  // namespace fedumm::cuda_machine
