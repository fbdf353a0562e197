/* Functions that are compiled for several widths of vector registers, under names that end in
 * _portable, _avx2 and _avx512: which of them this processor can run, and the choice of the widest
 * when the extension is loaded. */
#pragma once
#include "kernel.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define HAS_WIDER_REGISTERS 1
#define AVX2 "avx2,fma,bmi2"
#define AVX512 AVX2 ",avx512f,avx512bw,avx512dq,avx512vl"
#define AVX512_BF16 AVX512 ",avx512bf16"
#define OF_WIDTH(lanes, name) \
    ((lanes) == 16 ? name##_avx512 : (lanes) == 8 ? name##_avx2 : name##_portable)
#define AT_LOAD(choose)                                              \
    __attribute__((constructor)) static void load_##choose(void)     \
    {                                                                \
        __builtin_cpu_init();                                        \
        choose(INT64_MAX);                                           \
    }
#else
#define OF_WIDTH(lanes, name) ((void)(lanes), name##_portable)
#define AT_LOAD(choose)
#endif

/* The float32 elements of the widest registers with at most so many: 16, 8 or 4. */
INLINE int64_t widest_lanes(int64_t most)
{
#if HAS_WIDER_REGISTERS
    if (most >= 16 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        return 16;
    if (most >= 8 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
        __builtin_cpu_supports("bmi2"))
        return 8;
#endif
    (void)most;
    return 4;
}
