// A handler of SIGILL that decodes the tile instructions: VEX with three bytes, opcode map 0F38, W0.
#include "tile_trap.h"

#if defined(__linux__) && defined(__x86_64__)

#include <signal.h>
#include <stdlib.h>
#include <ucontext.h>

#include "tile_model.h"

namespace {

using namespace pyllmclf::trapped_tiles;
using pyllmclf::tile_model::Misuse;

enum Prefix { kNone, k66, kF3, kF2 };

struct Instruction {
  int opcode, prefix, mod, reg, rm, vvvv;
  char* memory;    // base and displacement
  int64_t stride;  // index times scale
  int64_t length;
};

// Registers by their numbers in instructions.
constexpr int kRegisters[] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                              REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

// Reads the operand in memory that begins at byte `at`, behind ModRM.
void decode_memory(const unsigned char* bytes, int at, const greg_t* registers, Instruction* found) {
  const int x = bytes[1] & 0x40 ? 0 : 8, b = bytes[1] & 0x20 ? 0 : 8;
  int64_t address = 0;
  int base = found->rm;
  if (base == 4) {
    const int sib = bytes[at++], index = (sib >> 3 & 7) | x;
    base = sib & 7;
    if (index != 4) found->stride = registers[kRegisters[index]] * (int64_t{1} << (sib >> 6));
  }
  const bool absolute = found->mod == 0 && base == 5;
  if (!absolute) address = registers[kRegisters[base | b]];
  if (found->mod == 1) {
    address += static_cast<signed char>(bytes[at++]);
  } else if (found->mod == 2 || absolute) {
    int32_t displacement;
    memcpy(&displacement, bytes + at, sizeof displacement);
    address += displacement;
    at += 4;
    if (absolute && found->rm == 5) address += registers[REG_RIP] + at;  // relative to the next instruction
  }
  found->memory = reinterpret_cast<char*>(address);
  found->length = at;
}

bool decode(const unsigned char* bytes, const greg_t* registers, Instruction* found) {
  if (bytes[0] != 0xc4 || (bytes[1] & 0x1f) != 2 || (bytes[2] & 0x84) != 0) return false;
  const int modrm = bytes[4];
  *found = {bytes[3], bytes[2] & 3, modrm >> 6, modrm >> 3 & 7, modrm & 7, ~(bytes[2] >> 3) & 15, nullptr, 0, 5};
  if (found->mod != 3) decode_memory(bytes, 5, registers, found);
  return true;
}

bool execute(const Instruction& i) {
  const bool memory = i.mod != 3;
  if (i.opcode == 0x49 && i.prefix == kNone) {
    memory ? tile_model_configure(i.memory) : tile_model_release();
  } else if (i.opcode == 0x49 && i.prefix == kF2 && !memory) {
    tile_model_zero(i.reg);
  } else if (i.opcode == 0x4b && i.prefix == kF2 && memory) {
    tile_model_load(i.reg, i.memory, i.stride);
  } else if (i.opcode == 0x4b && i.prefix == kF3 && memory) {
    tile_model_store(i.reg, i.memory, i.stride);
  } else if (i.opcode == 0x5c && i.prefix == kF3 && !memory) {
    tile_model_add_product(i.reg, i.rm, i.vvvv);
  } else {
    return false;
  }
  return true;
}

void on_illegal_instruction(int, siginfo_t*, void* context) {
  greg_t* registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  Instruction found;
  bool done = false;
  try {
    done = decode(reinterpret_cast<const unsigned char*>(registers[REG_RIP]), registers, &found) && execute(found);
  } catch (const Misuse&) {  // it has said what
  }
  if (!done) abort();
  registers[REG_RIP] += found.length;
}

}  // namespace

bool trap_tile_instructions() {
  struct sigaction action = {};
  action.sa_sigaction = on_illegal_instruction;
  action.sa_flags = SA_SIGINFO;
  return sigaction(SIGILL, &action, nullptr) == 0;
}

#else

bool trap_tile_instructions() { return false; }

#endif
