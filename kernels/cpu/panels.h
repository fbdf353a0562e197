/* Panels, in which a product's right operand lies, and how matrices are copied into them.
 *
 * Included once for each width of vector registers, with LANES, TARGET and NAME, see tile.h; without
 * LANES, for what the widths share. A panel is the next PANEL columns of a matrix, two registers of
 * them, in rows that follow each other. */
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

typedef float NAME(Vector) __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t NAME(Integers) __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

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
 * bit of a number's place in the square to the front; as many times as a row's number has bits,
 * and rows have become columns. */
TARGET INLINE void NAME(transpose)(const float *from, int64_t from_row, float *to, int64_t to_row)
{
    NAME(Vector) x[LANES], y[LANES];
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++)
        x[i] = *(const NAME(Vector) *)(from + i * from_row);
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

/* Copies b (depth, columns) into panels, of which the last is filled up with zeros. What comes
 * next is asked for early: rows far apart are nothing that a processor would foresee. */
TARGET static void NAME(pack)(const float *b, int64_t b_row, int64_t depth, int64_t columns,
                                    float *to)
{
    for (int64_t j = 0; j < columns; j += PANEL, b += PANEL, to += PANEL * depth) {
        const int64_t count = least(columns - j, PANEL);
        for (int64_t p = 0; p < depth; p++) {
            const float *const row = b + p * b_row;
            __builtin_prefetch(row + ROWS_AHEAD * b_row);
            __builtin_prefetch(row + ROWS_AHEAD * b_row + LANES);
            if (count == PANEL)
                memcpy(to + p * PANEL, row, sizeof(float[PANEL]));
            else
                for (int64_t l = 0; l < PANEL; l++)
                    to[p * PANEL + l] = l < count ? row[l] : 0;
        }
    }
}

/* The same of a b that lies transposed, in rows of elements that are multiplied one by one. */
TARGET static void NAME(pack_transposed)(const float *b, int64_t b_row, int64_t depth,
                                               int64_t columns, float *to)
{
    for (int64_t j = 0; j < rounded_up(columns, PANEL); j += LANES, b += LANES * b_row) {
        float *const half = to + j / PANEL * PANEL * depth + j % PANEL;
        const int64_t count = least(columns - j, LANES);
        int64_t p = 0;
        for (; count == LANES && p + LANES <= depth; p += LANES) {
#pragma GCC unroll 16
            for (int l = 0; l < LANES; l++)
                __builtin_prefetch(b + (LANES + l) * b_row + p);
            NAME(transpose)(b + p, b_row, half + p * PANEL, PANEL);
        }
        for (; p < depth; p++)
            for (int64_t l = 0; l < LANES; l++)
                half[p * PANEL + l] = l < count ? b[l * b_row + p] : 0;
    }
}

#undef LOWER
#undef HIGHER
#endif
