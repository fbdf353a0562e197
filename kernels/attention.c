/* Fused attention: the parts that are the same for every processor, and the choice among those
 * that are not, which are in attention_blocks.h. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("fp-contract=fast") /* a multiplication and an addition are one operation */
#endif
#include <stdlib.h>

#include "attention.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define HAS_WIDER_REGISTERS 1
#endif

/* Sizes of a block: multiples of every ROWS and PANEL. */
enum { QUERIES = 96, KEYS = 96, WIDEST_PANEL = 32, LINE = 16 };

/* Numbers from one row of a block of weights to the next: room for a panel beyond what is seen,
 * and an odd number of cache lines, so that a column's lines do not push each other out. */
enum { WEIGHTS_ROW = KEYS + 3 * LINE };

/* Fewer queries than this are not worth the packing of keys into blocks. */
enum { FEWEST_FOR_BLOCKS = 4 };

/* The dropout bits of a row of a block, which need not begin with a group. */
typedef uint16_t BitsRow[KEYS + PHILOX_LANES];
enum { BITS_SIZE = QUERIES * sizeof(BitsRow) / sizeof(float) };

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

INLINE int64_t between(int64_t x, int64_t low, int64_t high)
{
    return x < low ? low : x > high ? high : x;
}

INLINE int64_t rounded_up(int64_t x, int64_t multiple)
{
    return (x + multiple - 1) / multiple * multiple;
}

INLINE float *head_of(const Attention *a, const Heads *array, int64_t head)
{
    return array->data + head / a->heads * array->sequence + head % a->heads * array->head;
}

/* The number of the weight's element in the mask. */
INLINE int64_t mask_start(const Attention *a, int64_t head, int64_t query, int64_t key)
{
    return (head * a->queries + query) * a->keys + key;
}

INLINE const uint16_t *bits_of(const Attention *a, BitsRow *bits, int64_t head, int64_t query,
                                    int64_t row, int64_t key)
{
    return bits[row] + mask_start(a, head, query + row, key) % PHILOX_LANES;
}

/* The peak and the total of a query, the first of `head` if it is 0. */
INLINE float *statistics_of(const Attention *a, int64_t head, int64_t query)
{
    return a->statistics + 2 * (head * a->queries + query);
}

/* Writes a query's statistics; those of one that sees no key are 0 and 1. */
INLINE void write_statistics(const Attention *a, int64_t head, int64_t query, float peak,
                             float total)
{
    float *const to = statistics_of(a, head, query);
    to[0] = total == 0 ? 0 : peak;
    to[1] = total == 0 ? 1 : total;
}

/* Returns `count` numbers of the room, from a cache line's beginning, and takes them off it. */
INLINE float *take(float **room, int64_t count)
{
    float *const taken = *room;
    *room += rounded_up(count, LINE);
    return taken;
}

/* Returns 0, or NaN where not all that was written is finite. */
static float write_scaled(const Attention *a, const Heads *array, int64_t head, int64_t first,
                         int64_t rows, int64_t columns, const float *from, int64_t from_row,
                         float scale)
{
    float *const to = head_of(a, array, head) + first * array->row;
    float check = 0;
    for (int64_t i = 0; i < rows; i++)
#pragma omp simd reduction(+ : check)
        for (int64_t j = 0; j < columns; j++) {
            const float x = scale * from[i * from_row + j];
            to[i * array->row + j] = x;
            check += 0 * x;
        }
    return check;
}

/* At least what forward and backward take, whatever the width of a panel. */
static int64_t room_size(const Attention *a)
{
    const int64_t queries = rounded_up(a->queries, QUERIES), keys = rounded_up(a->keys, KEYS);
    const int64_t width = rounded_up(a->size, WIDEST_PANEL);
    const int64_t value_width = rounded_up(a->value_size, WIDEST_PANEL);
    return (2 * queries + 2 * keys) * width + (queries + 2 * keys) * value_width +
           3 * (KEYS + QUERIES) * (width + value_width) +
           2 * QUERIES * (WEIGHTS_ROW + LINE) + 2 * (queries + keys) + BITS_SIZE + 20 * LINE;
}

#define LANES 4
#define ROWS 4
#define TARGET
#define NAME(name) name##_portable
#include "attention_blocks.h"

#if HAS_WIDER_REGISTERS
#define LANES 8
#define ROWS 6
#define TARGET __attribute__((target("avx2,fma,bmi2")))
#define NAME(name) name##_avx2
#include "attention_blocks.h"

#define LANES 16
#define ROWS 12
#define TARGET __attribute__((target("avx2,fma,bmi2,avx512f,avx512bw,avx512dq,avx512vl")))
#define NAME(name) name##_avx512
#include "attention_blocks.h"
#endif

typedef void HeadFunction(const Attention *a, int64_t head, float *room);

static HeadFunction *forward_head = forward_head_portable;
static HeadFunction *backward_head = backward_head_portable;

int64_t attention_choose_lanes(int64_t most)
{
    forward_head = forward_head_portable;
    backward_head = backward_head_portable;
#if HAS_WIDER_REGISTERS
    if (most >= 16 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
        forward_head = forward_head_avx512;
        backward_head = backward_head_avx512;
        return 16;
    }
    if (most >= 8 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
        __builtin_cpu_supports("bmi2")) {
        forward_head = forward_head_avx2;
        backward_head = backward_head_avx2;
        return 8;
    }
#else
    (void)most;
#endif
    return 4;
}

static int each_head(HeadFunction *function, const Attention *a, int64_t first, int64_t last)
{
    /* the size that aligned_alloc takes is a multiple of the alignment */
    const size_t size = (size_t)rounded_up(room_size(a), LINE) * sizeof(float);
    float *const room = aligned_alloc(LINE * sizeof(float), size);
    if (!room)
        return -1;
    for (int64_t head = first; head < last; head++)
        function(a, head, room);
    free(room);
    return 0;
}

int attention_forward(const Attention *a, int64_t first, int64_t last)
{
    return each_head(forward_head, a, first, last);
}

int attention_backward(const Attention *a, int64_t first, int64_t last)
{
    return each_head(backward_head, a, first, last);
}
