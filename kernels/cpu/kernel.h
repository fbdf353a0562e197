/* How a kernel is declared: once, in front of its body, with each argument named once.
 *
 *     KERNEL(void, layernorm_forward, IN(x, rows * channels), OPTIONAL(weight, channels),
 *            OUT(y, rows * channels), COUNT(rows), COUNT(channels), REAL(eps))
 *     {
 *         ...
 *     }
 *
 * makes the function `layernorm_forward(const float *x, const float *weight, float *y,
 * int64_t rows, int64_t channels, float eps)`, compiled for several instruction sets, and the
 * function of the same name in the Python module, see module.c.
 *
 * What is passed from Python is checked: dtype, contiguity, whether it may be written to, and how
 * many elements it has. The second part of a buffer's argument says how many, in terms of others.
 *
 * A kernel returns one of these:
 *   void      nothing
 *   int       0, or -1 where it had no memory for its work
 *   int64_t   a number that Python gets; it must be the same whenever a recorded call is repeated
 *
 * The kinds of arguments:
 *   IN, OUT                  float32 that is read, and that is written to
 *   OPTIONAL, OPTIONAL_OUT   the same, or None, which is NULL
 *   IN_INT64, OUT_INT64      int64
 *   IN_DOUBLE, OUT_DOUBLE    float64
 *   VIEW, OUT_VIEW           float32 (B, H, T, D) of which only the last axis need be contiguous;
 *                            the second part is a condition
 *   COUNT                    an integer from 0 on
 *   INTEGER                  any integer of 64 bits
 *   REAL, DOUBLE             a number in single and in double precision
 *   SEED, CALL               next to each other: what a dropout mask is made of */
#ifndef TINYGRAD_CHAR_KERNEL_H
#define TINYGRAD_CHAR_KERNEL_H

#include <stdint.h>

#include "simd.h"

enum { MOST_ARGUMENTS = 18, MOST_VIEWS = 8 };

/* An array (B, H, T, D), its strides in elements; that of the last axis is 1. */
typedef struct {
    float *data;
    int64_t shape[4], strides[3];
} View;

typedef union {
    void *data;
    int64_t integer; /* of a view, its place among the views */
    uint64_t natural;
    float real;
    double precise;
} Argument;

typedef struct {
    Argument at[MOST_ARGUMENTS];
    View views[MOST_VIEWS];
} Arguments;

typedef struct Kernel {
    const char *name;
    char letters[MOST_ARGUMENTS + 1]; /* the kinds of the arguments; a capital: written to */
    const char *const names[MOST_ARGUMENTS];
    int has_result;
    int64_t (*run)(const Arguments *arguments);
    /* Returns the first argument whose size is not what it must be, and that (-1 for a view whose
     * condition does not hold), or -1. Sizes of what is no buffer, or None, are -1. */
    int (*misfit)(const Arguments *arguments, const int64_t *sizes, int64_t *expected);
    struct Kernel *next;
} Kernel;

/* Adds a kernel to those of the Python module. */
void kernel_register(Kernel *kernel);

/* The kinds of arguments: type in C, name, letter, where it lies, how many elements it must have. */
#define KIND_IN(x, n) (const float *, x, 'f', at->data, n)
#define KIND_OUT(x, n) (float *, x, 'F', at->data, n)
#define KIND_OPTIONAL(x, n) (const float *, x, 'g', at->data, n)
#define KIND_OPTIONAL_OUT(x, n) (float *, x, 'G', at->data, n)
#define KIND_IN_INT64(x, n) (const int64_t *, x, 't', at->data, n)
#define KIND_OUT_INT64(x, n) (int64_t *, x, 'T', at->data, n)
#define KIND_IN_DOUBLE(x, n) (const double *, x, 'd', at->data, n)
#define KIND_OUT_DOUBLE(x, n) (double *, x, 'D', at->data, n)
#define KIND_VIEW(x, fits) (const View *, x, 'v', &arguments->views[at->integer], (fits) ? 0 : -1)
#define KIND_OUT_VIEW(x, fits) \
    (const View *, x, 'V', &arguments->views[at->integer], (fits) ? 0 : -1)
#define KIND_COUNT(x) (int64_t, x, 'c', at->integer, -1)
#define KIND_INTEGER(x) (int64_t, x, 'i', at->integer, -1)
#define KIND_REAL(x) (float, x, 'r', at->real, -1)
#define KIND_DOUBLE(x) (double, x, 'R', at->precise, -1)
#define KIND_SEED(x) (uint64_t, x, 's', at->natural, -1)
#define KIND_CALL(x) (uint64_t, x, 'k', at->natural, -1)

#define AS_PARAMETER(argument) APPLY(AS_PARAMETER_, KIND_##argument)
#define AS_PARAMETER_(type, x, letter, place, n) type x
#define AS_NAME(argument) APPLY(AS_NAME_, KIND_##argument)
#define AS_NAME_(type, x, letter, place, n) x
#define AS_TEXT(argument) APPLY(AS_TEXT_, KIND_##argument)
#define AS_TEXT_(type, x, letter, place, n) #x
#define AS_LETTER(argument) APPLY(AS_LETTER_, KIND_##argument)
#define AS_LETTER_(type, x, letter, place, n) letter
#define AS_LOCAL(argument) APPLY(AS_LOCAL_, KIND_##argument)
#define AS_LOCAL_(type, x, letter, place, n) type const x = place; at++, (void)x;
#define AS_CHECK(argument) APPLY(AS_CHECK_, KIND_##argument)
#define AS_CHECK_(type, x, letter, place, n)                              \
    if (*sizes >= 0 && *sizes != (*expected = (int64_t)(n)))           \
        return argument;                                               \
    sizes++, argument++;
#define APPLY(do, kind) do kind

/* do(a) do(b) ... with something between them, for at most eighteen arguments. */
#define EACH(do, between, ...) JOIN(EACH_, COUNT_OF(__VA_ARGS__))(do, between, __VA_ARGS__)
#define COUNT_OF(...) \
    COUNT_OF_(__VA_ARGS__, 18, 17, 16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1)
#define COUNT_OF_(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, count, ...) count
#define JOIN(a, b) JOIN_(a, b)
#define JOIN_(a, b) a##b
#define COMMA() ,
#define NOTHING()
#define EACH_1(do, between, a) do(a)
#define EACH_2(do, between, a, ...) do(a) between() EACH_1(do, between, __VA_ARGS__)
#define EACH_3(do, between, a, ...) do(a) between() EACH_2(do, between, __VA_ARGS__)
#define EACH_4(do, between, a, ...) do(a) between() EACH_3(do, between, __VA_ARGS__)
#define EACH_5(do, between, a, ...) do(a) between() EACH_4(do, between, __VA_ARGS__)
#define EACH_6(do, between, a, ...) do(a) between() EACH_5(do, between, __VA_ARGS__)
#define EACH_7(do, between, a, ...) do(a) between() EACH_6(do, between, __VA_ARGS__)
#define EACH_8(do, between, a, ...) do(a) between() EACH_7(do, between, __VA_ARGS__)
#define EACH_9(do, between, a, ...) do(a) between() EACH_8(do, between, __VA_ARGS__)
#define EACH_10(do, between, a, ...) do(a) between() EACH_9(do, between, __VA_ARGS__)
#define EACH_11(do, between, a, ...) do(a) between() EACH_10(do, between, __VA_ARGS__)
#define EACH_12(do, between, a, ...) do(a) between() EACH_11(do, between, __VA_ARGS__)
#define EACH_13(do, between, a, ...) do(a) between() EACH_12(do, between, __VA_ARGS__)
#define EACH_14(do, between, a, ...) do(a) between() EACH_13(do, between, __VA_ARGS__)
#define EACH_15(do, between, a, ...) do(a) between() EACH_14(do, between, __VA_ARGS__)
#define EACH_16(do, between, a, ...) do(a) between() EACH_15(do, between, __VA_ARGS__)
#define EACH_17(do, between, a, ...) do(a) between() EACH_16(do, between, __VA_ARGS__)
#define EACH_18(do, between, a, ...) do(a) between() EACH_17(do, between, __VA_ARGS__)

#define KERNEL(result, function, ...) KERNEL_OF(MULTIVERSION, result, function, __VA_ARGS__)
/* For what leaves its work to functions that are compiled for instruction sets themselves. */
#define KERNEL_PLAIN(result, function, ...) KERNEL_OF(, result, function, __VA_ARGS__)
#define KERNEL_OF(target, result, function, ...)                                         \
    result function(EACH(AS_PARAMETER, COMMA, __VA_ARGS__));                                \
    static int64_t run_##function(const Arguments *arguments)                            \
    {                                                                                    \
        const Argument *at = arguments->at;                                              \
        EACH(AS_LOCAL, NOTHING, __VA_ARGS__)                                                 \
        RUN_##result(function(EACH(AS_NAME, COMMA, __VA_ARGS__)))                           \
    }                                                                                    \
    static int misfit_##function(const Arguments *arguments, const int64_t *sizes,       \
                             int64_t *expected)                                          \
    {                                                                                    \
        const Argument *at = arguments->at;                                              \
        int argument = 0;                                                                \
        EACH(AS_LOCAL, NOTHING, __VA_ARGS__)                                                 \
        EACH(AS_CHECK, NOTHING, __VA_ARGS__)                                                \
        return -1;                                                                       \
    }                                                                                    \
    static Kernel kernel_##function = {                                                  \
        .name = #function,                                                               \
        .letters = {EACH(AS_LETTER, COMMA, __VA_ARGS__), 0},                                \
        .names = {EACH(AS_TEXT, COMMA, __VA_ARGS__)},                                       \
        .has_result = HAS_RESULT_##result,                                               \
        .run = run_##function,                                                           \
        .misfit = misfit_##function,                                                     \
    };                                                                                   \
    __attribute__((constructor)) static void register_##function(void)                   \
    {                                                                                    \
        kernel_register(&kernel_##function);                                             \
    }                                                                                    \
    target result function(EACH(AS_PARAMETER, COMMA, __VA_ARGS__))

#define RUN_void(call) \
    call;              \
    return 0;
#define RUN_int(call) return call;
#define RUN_int64_t(call) return call;
#define HAS_RESULT_void 0
#define HAS_RESULT_int 0
#define HAS_RESULT_int64_t 1

#endif
