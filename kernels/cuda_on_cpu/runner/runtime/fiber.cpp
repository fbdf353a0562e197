#include "fiber.h"

#if CUDA_ON_CPU_OWN_SWITCH

// A fiber that does not run keeps, on its stack, the registers that a function must preserve, then
// the address to go on at. Saving these few is several times cheaper than swapcontext, which also
// makes a system call for the signal mask.
asm(R"(
    .text
    .globl cuda_on_cpu_switch
    .hidden cuda_on_cpu_switch
    .type cuda_on_cpu_switch, @function
cuda_on_cpu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size cuda_on_cpu_switch, . - cuda_on_cpu_switch
)");

extern "C" void cuda_on_cpu_switch(void **saved, void *resumed);

namespace cuda_on_cpu {

void Fiber::prepare(char *stack, size_t bytes, void (*entry)())
{
    void **top = reinterpret_cast<void **>(stack + bytes);
    *--top = nullptr; // where `entry` would return to; debuggers end their backtrace here
    *--top = reinterpret_cast<void *>(entry);
    stack_pointer_ = top - 6; // the registers, whatever they hold
}

void Fiber::switch_to(Fiber &from, Fiber &to)
{
    cuda_on_cpu_switch(&from.stack_pointer_, to.stack_pointer_);
}

} // namespace cuda_on_cpu

#else

namespace cuda_on_cpu {

void Fiber::prepare(char *stack, size_t bytes, void (*entry)())
{
    getcontext(&context_);
    context_.uc_stack.ss_sp = stack;
    context_.uc_stack.ss_size = bytes;
    context_.uc_link = nullptr;
    makecontext(&context_, entry, 0);
}

void Fiber::switch_to(Fiber &from, Fiber &to) { swapcontext(&from.context_, &to.context_); }

} // namespace cuda_on_cpu

#endif
