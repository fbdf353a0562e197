// In check mode the kernel is compiled with -fsanitize=thread: the compiler puts a call of one of
// these functions before each access to memory. They stand in for the sanitizer's own library.

#ifdef CUDA_ON_CPU_CHECK

#include <cstdint>
#include <cstring>

#include "checker.h"

using cuda_on_cpu::Access;
using cuda_on_cpu::check_access;
using cuda_on_cpu::check_aligned_access;

extern "C" {

#define CUDA_ON_CPU_HOOK(name, check, kind, bytes)                                  \
    void __tsan_##name##bytes(void *address)                                        \
    {                                                                               \
        check(address, bytes, Access::kind, CUDA_ON_CPU_CALL_SITE);                 \
    }

#define CUDA_ON_CPU_HOOKS(bytes)                                                    \
    CUDA_ON_CPU_HOOK(read, check_aligned_access, Read, bytes)                       \
    CUDA_ON_CPU_HOOK(write, check_aligned_access, Write, bytes)                     \
    CUDA_ON_CPU_HOOK(unaligned_read, check_access, Read, bytes)                     \
    CUDA_ON_CPU_HOOK(unaligned_write, check_access, Write, bytes)

CUDA_ON_CPU_HOOKS(1)
CUDA_ON_CPU_HOOKS(2)
CUDA_ON_CPU_HOOKS(4)
CUDA_ON_CPU_HOOKS(8)
CUDA_ON_CPU_HOOKS(16)

void __tsan_read_range(void *address, size_t bytes)
{
    check_access(address, bytes, Access::Read, CUDA_ON_CPU_CALL_SITE);
}

void __tsan_write_range(void *address, size_t bytes)
{
    check_access(address, bytes, Access::Write, CUDA_ON_CPU_CALL_SITE);
}

void *__tsan_memcpy(void *destination, const void *source, size_t bytes)
{
    check_access(source, bytes, Access::Read, CUDA_ON_CPU_CALL_SITE);
    check_access(destination, bytes, Access::Write, CUDA_ON_CPU_CALL_SITE);
    return memcpy(destination, source, bytes);
}

void *__tsan_memset(void *destination, int value, size_t bytes)
{
    check_access(destination, bytes, Access::Write, CUDA_ON_CPU_CALL_SITE);
    return memset(destination, value, bytes);
}

void __tsan_init() {}
void __tsan_func_entry(void *) {}
void __tsan_func_exit() {}
}

#endif
