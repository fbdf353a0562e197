/* Panels, in which a product's right operand lies, and how matrices are copied into them.
 *
 * Included for each width of vector registers, see each_width.h, and without LANES for what the widths
 * share. A panel is the next PANEL columns of a matrix, two registers of
 * them, in rows of elements that follow each other.
 *
 * An element has four bytes. It is a number, or, where DEEP is defined as 2, a pair of neighbours along
 * the depth, in bfloat16; INSTRUCTION is defined where the processor's own may multiply them. Either
 * has the type Element and the functions
 *   one(from, step, count)         the element of `count` numbers, at most DEEP, `step` apart
 *   along(from), across(from, row) a register of elements: of numbers one after the other, and of
 *                                  those in DEEP rows
 *   multiply_add(sum, x, y)        sum + x y, of one element and a register of them */
#ifndef TINYGRAD_CHAR_PANELS_H
#define TINYGRAD_CHAR_PANELS_H

#include "simd.h"

enum { ROWS_AHEAD = 16 };

#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(integers, x, y, ...) __builtin_shufflevector(x, y, __VA_ARGS__)
#else
#define SHUFFLE(integers, x, y, ...) __builtin_shuffle(x, y, (integers){__VA_ARGS__})
#endif

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

INLINE int64_t rounded_up(int64_t x, int64_t multiple)
{
    return (x + multiple - 1) / multiple * multiple;
}

#endif

#ifdef LANES
#define PANEL (2 * LANES)
#ifndef DEEP
#define DEEP 1
#endif

typedef float NAME(Vector) __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t NAME(Integers) __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

#if DEEP > 1
#include "elements_bf16.h"
#else
#include "elements_float32.h"
#endif

/* Two registers of the elements in two others, in turns: those of their lower or higher halves. */
#if LANES == 16
#define LOWER 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define HIGHER 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif LANES == 8
#define LOWER 0, 8, 1, 9, 2, 10, 3, 11
#define HIGHER 4, 12, 5, 13, 6, 14, 7, 15
#else
#define LOWER 0, 4, 1, 5
#define HIGHER 2, 6, 3, 7
#endif

/* Writes a square of elements transposed. Reading rows i and i + LANES / 2 in turns moves the last
 * bit of an element's place in the square to the front; as many times as a row's number has bits,
 * and rows have become columns. */
TARGET INLINE void NAME(transpose)(const float *from, int64_t from_row, NAME(Element) *to,
                                   int64_t to_row)
{
    NAME(Vector) x[LANES], y[LANES];
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++)
        x[i] = NAME(along)(from + i * from_row);
#pragma GCC unroll 4
    for (int size = 1; size < LANES; size *= 2) {
#pragma GCC unroll 8
        for (int i = 0; i < LANES / 2; i++) {
            y[2 * i] = SHUFFLE(NAME(Integers), x[i], x[i + LANES / 2], LOWER);
            y[2 * i + 1] = SHUFFLE(NAME(Integers), x[i], x[i + LANES / 2], HIGHER);
        }
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++)
            x[i] = y[i];
    }
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++)
        *(NAME(Vector) *)(to + i * to_row) = x[i];
}

#if DEEP > 1
/* Copies rows of a left operand, (rows, depth), to elements that are multiplied one by one. */
TARGET static void NAME(copy_left)(const float *a, int64_t a_row, int64_t rows, int64_t depth,
                                   NAME(Element) *to, int64_t to_row)
{
    const int64_t steps = (depth + DEEP - 1) / DEEP;
    for (int64_t i = 0; i < rows; i++, a += a_row, to += to_row) {
        int64_t p = 0;
        for (; DEEP * (p + LANES) <= depth; p += LANES) {
            for (int ahead = 0; ahead < DEEP; ahead++)
                __builtin_prefetch(a + LANES * a_row + DEEP * p + LANES * ahead);
            *(NAME(Vector) *)(to + p) = NAME(along)(a + DEEP * p);
        }
        for (; p < steps; p++)
            to[p] = NAME(one)(a + DEEP * p, 1, depth - DEEP * p);
    }
}
#endif

/* Copies b (depth, columns) into panels, of which the last is filled up with zeros. What comes
 * next is asked for early: rows far apart are nothing that a processor would foresee. */
TARGET static void NAME(pack)(const float *b, int64_t b_row, int64_t depth, int64_t columns,
                              NAME(Element) *to)
{
    const int64_t steps = (depth + DEEP - 1) / DEEP;
    for (int64_t j = 0; j < columns; j += PANEL, b += PANEL, to += PANEL * steps) {
        const int64_t count = least(columns - j, PANEL);
        for (int64_t p = 0; p < steps; p++) {
            const float *const row = b + DEEP * p * b_row;
            for (int i = 0; i < DEEP; i++) {
                __builtin_prefetch(row + (ROWS_AHEAD + i) * b_row);
                __builtin_prefetch(row + (ROWS_AHEAD + i) * b_row + LANES);
            }
            if (count == PANEL && DEEP * (p + 1) <= depth) {
                NAME(Vector) *const at = (NAME(Vector) *)(to + p * PANEL);
                at[0] = NAME(across)(row, b_row);
                at[1] = NAME(across)(row + LANES, b_row);
                continue;
            }
            for (int64_t l = 0; l < PANEL; l++)
                to[p * PANEL + l] = l < count ? NAME(one)(row + l, b_row, depth - DEEP * p) : 0;
        }
    }
}

/* The same of a b that lies transposed, in rows of elements that are multiplied one by one. */
TARGET static void NAME(pack_transposed)(const float *b, int64_t b_row, int64_t depth,
                                         int64_t columns, NAME(Element) *to)
{
    const int64_t steps = (depth + DEEP - 1) / DEEP;
    for (int64_t j = 0; j < rounded_up(columns, PANEL); j += LANES, b += LANES * b_row) {
        NAME(Element) *const half = to + j / PANEL * PANEL * steps + j % PANEL;
        const int64_t count = least(columns - j, LANES);
        int64_t p = 0;
        for (; count == LANES && DEEP * (p + LANES) <= depth; p += LANES) {
#pragma GCC unroll 16
            for (int l = 0; l < LANES; l++)
                __builtin_prefetch(b + (LANES + l) * b_row + DEEP * p);
            NAME(transpose)(b + DEEP * p, b_row, half + p * PANEL, PANEL);
        }
        for (; p < steps; p++)
            for (int64_t l = 0; l < LANES; l++)
                half[p * PANEL + l] =
                    l < count ? NAME(one)(b + l * b_row + DEEP * p, 1, depth - DEEP * p) : 0;
    }
}

#undef LOWER
#undef HIGHER
#endif
