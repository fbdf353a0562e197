/* Includes BLOCKS, a file from here, once for each width of vector registers, with
 *   LANES    elements in a register, of four bytes each
 *   TARGET   the attribute that lets the compiler use such registers
 *   NAME(x)  a name of its own for what is defined there: x_portable, x_avx2 or x_avx512
 *
 * Before, there is to be defined ROWS, how many rows of a result are summed up in registers at once,
 * in terms of LANES. Where DEEP is defined as 2, elements are pairs in bfloat16, see panels.h, and
 * names end in _bf16_portable and so on; _bf16_instruction has those that AVX512_BF16 multiplies,
 * where INSTRUCTION is defined. All of these are undefined behind. */
#ifdef DEEP
#define KIND _bf16
#else
#define KIND
#endif
#define NAMED(x, kind, width) NAMED_(x, kind, width)
#define NAMED_(x, kind, width) x##kind##width

#define LANES 4
#define TARGET
#define NAME(x) NAMED(x, KIND, _portable)
#include BLOCKS
#undef LANES
#undef TARGET
#undef NAME

#if HAS_WIDER_REGISTERS
#define LANES 8
#define TARGET __attribute__((target(AVX2)))
#define NAME(x) NAMED(x, KIND, _avx2)
#include BLOCKS
#undef LANES
#undef TARGET
#undef NAME

#define LANES 16
#define TARGET __attribute__((target(AVX512)))
#define NAME(x) NAMED(x, KIND, _avx512)
#include BLOCKS
#undef TARGET
#undef NAME

#if DEEP > 1 && HAS_BF16
#define INSTRUCTION
#define TARGET __attribute__((target(AVX512_BF16)))
#define NAME(x) NAMED(x, KIND, _instruction)
#include BLOCKS
#undef INSTRUCTION
#undef TARGET
#undef NAME
#endif
#undef LANES
#endif

#undef KIND
#undef NAMED
#undef NAMED_
#undef BLOCKS
#undef ROWS
#undef DEEP
