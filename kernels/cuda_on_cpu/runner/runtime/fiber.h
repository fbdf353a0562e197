// A fiber: a function with a stack of its own, which runs until it hands over to another fiber.
#pragma once

#include <cstddef>

#if defined(__x86_64__) && !defined(CUDA_ON_CPU_UCONTEXT)
#define CUDA_ON_CPU_OWN_SWITCH 1
#else
#define CUDA_ON_CPU_OWN_SWITCH 0
#include <ucontext.h>
#endif

namespace cuda_on_cpu {

class Fiber {
  public:
    // The next switch to this fiber calls `entry`, which must never return, on the given stack.
    void prepare(char *stack, size_t bytes, void (*entry)());

    // Goes on where `to` stopped; returns when something switches back to `from`.
    static void switch_to(Fiber &from, Fiber &to);

  private:
#if CUDA_ON_CPU_OWN_SWITCH
    void *stack_pointer_;
#else
    ucontext_t context_;
#endif
};

} // namespace cuda_on_cpu
