/* Fused attention: the parts that are the same for every processor, and the choice among those
 * that are not, which are in attention_blocks.h. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("fp-contract=fast") /* a multiplication and an addition are one operation */
#endif
#include <stdatomic.h>
#include <stdlib.h>

#include "attention.h"
#include "bfloat16.h"
#include "kernel.h"
#include "panels.h"
#include "parallel_for.h"
#include "widths.h"

/* Sizes of a block: multiples of every ROWS and PANEL. */
enum { QUERIES = 96, KEYS = 96, WIDEST_PANEL = 32, LINE = 16 };

/* Elements from one row of a block of weights to the next: room for a panel beyond what is seen,
 * and an odd number of cache lines, so that a column's lines do not push each other out. */
enum { WEIGHTS_ROW = KEYS + 3 * LINE };

/* Fewer queries than this are not worth the packing of keys into blocks. */
enum { FEWEST_FOR_BLOCKS = 4 };

/* The dropout bits of a row of a block, which need not begin with a group. */
typedef uint16_t BitsRow[KEYS + PHILOX_LANES];
enum { BITS_SIZE = QUERIES * sizeof(BitsRow) / sizeof(float) };

INLINE int64_t between(int64_t x, int64_t low, int64_t high)
{
    return x < low ? low : x > high ? high : x;
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

/* Returns `count` elements of the room, from a cache line's beginning, and takes them off it. */
INLINE void *take(float **room, int64_t count)
{
    float *const taken = *room;
    *room += rounded_up(count, LINE);
    return taken;
}

/* At least what forward and backward take, whatever the width of a panel. */
static int64_t room_size(const Attention *a)
{
    const int64_t queries = rounded_up(a->queries, QUERIES), keys = rounded_up(a->keys, KEYS);
    const int64_t width = rounded_up(a->size, WIDEST_PANEL);
    const int64_t value_width = rounded_up(a->value_size, WIDEST_PANEL);
    return (2 * queries + 2 * keys) * width + (queries + 2 * keys) * value_width +
           3 * (KEYS + QUERIES) * (width + value_width) +
           2 * QUERIES * (WEIGHTS_ROW + LINE) + 2 * (queries + keys) + BITS_SIZE + 20 * LINE +
           (a->bf16 ? queries * (width + value_width) + QUERIES * KEYS : 0);
}

#define BLOCKS "../attention/attention_blocks.h"
#define ROWS (LANES == 16 ? 12 : LANES == 8 ? 6 : 4)
#include "each_width.h"

#define BLOCKS "../attention/attention_blocks.h"
#define ROWS (LANES == 16 ? 12 : LANES == 8 ? 6 : 4)
#define DEEP 2
#include "each_width.h"

typedef void HeadFunction(const Attention *a, int64_t head, float *room);

/* Which functions compute, of float32 and of what is rounded to bfloat16. */
static HeadFunction *forward_heads[2] = {forward_head_portable, forward_head_bf16_portable};
static HeadFunction *backward_heads[2] = {backward_head_portable, backward_head_bf16_portable};
static int64_t lanes = 4;

KERNEL_PLAIN(int64_t, attention_choose_lanes, INTEGER(most))
{
    lanes = widest_lanes(most);
    forward_heads[0] = OF_WIDTH(lanes, forward_head);
    backward_heads[0] = OF_WIDTH(lanes, backward_head);
    forward_heads[1] = OF_WIDTH(lanes, forward_head_bf16);
    backward_heads[1] = OF_WIDTH(lanes, backward_head_bf16);
    return lanes;
}

AT_LOAD(attention_choose_lanes)

/* By the instruction, where there is one, they have the bits that they have without. */
static HeadFunction *head_function(int backward, int bf16)
{
#if HAS_BF16
    if (bf16 && lanes == 16 && bf16_way == BF16_INSTRUCTION)
        return backward ? backward_head_bf16_instruction : forward_head_bf16_instruction;
#endif
    return (backward ? backward_heads : forward_heads)[bf16];
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

static Heads heads_of(const View *view)
{
    return (Heads){view->data, view->strides[0], view->strides[1], view->strides[2]};
}

typedef struct {
    Attention attention;
    HeadFunction *function;
    atomic_int failed;
} Job;

static void some_heads(void *work, int64_t first, int64_t last)
{
    Job *const job = work;
    if (each_head(job->function, &job->attention, first, last) < 0)
        atomic_store(&job->failed, 1);
}

static int all_heads(int backward, Attention attention, int64_t heads, int64_t threads)
{
    Job job = {attention, head_function(backward, attention.bf16), 0};
    parallel_for(some_heads, &job, heads, threads);
    return job.failed ? -1 : 0;
}

static Attention attention_of(const View *q, const View *k, const View *v, const View *out,
                              float *statistics, int causal, float scale)
{
    return (Attention){
        .heads = q->shape[1],
        .queries = q->shape[2],
        .keys = k->shape[2],
        .size = q->shape[3],
        .value_size = v->shape[3],
        .seen = causal ? 1 + k->shape[2] - q->shape[2] : INT64_MAX / 4,
        .scale = scale,
        .sign = scale < 0 ? -1 : scale == 0 ? 0 : 1,
        .magnitude = scale == 0 ? 1 : fabsf(scale),
        .q = heads_of(q),
        .k = heads_of(k),
        .v = heads_of(v),
        .out = heads_of(out),
        .statistics = statistics,
    };
}

/* Whether the first axes of two views, so many, are as long. */
static int alike(const View *a, const View *b, int axes)
{
    for (int axis = 0; axis < axes; axis++)
        if (a->shape[axis] != b->shape[axis])
            return 0;
    return 1;
}

static int fits_keys(const View *q, const View *k)
{
    return alike(q, k, 2) && k->shape[3] == q->shape[3];
}

static int fits_results(const View *q, const View *v, const View *out)
{
    return alike(q, out, 3) && out->shape[3] == v->shape[3];
}

/* Writes out and the statistics. With `dropped`, the weights are dropped by the mask of seed, call,
 * threshold and keep_scale. With `bf16`, the operands of products are rounded to bfloat16. */
KERNEL_PLAIN(int, attention_forward, VIEW(q, 1), VIEW(k, fits_keys(q, k)), VIEW(v, alike(k, v, 3)),
             OUT_VIEW(out, fits_results(q, v, out)),
             OUT(statistics, 2 * q->shape[0] * q->shape[1] * q->shape[2]), COUNT(causal),
             REAL(scale), COUNT(dropped), SEED(seed), CALL(call), COUNT(threshold),
             REAL(keep_scale), COUNT(bf16), COUNT(threads))
{
    const DropoutMask mask = dropout_mask(seed, call, threshold, keep_scale);
    Attention attention = attention_of(q, k, v, out, statistics, causal != 0, scale);
    attention.mask = dropped ? &mask : NULL;
    attention.bf16 = bf16 != 0;
    return all_heads(0, attention, q->shape[0] * q->shape[1], threads);
}

static int fits_cache(const View *new, const View *held)
{
    return alike(new, held, 2) && new->shape[3] == held->shape[3];
}

/* Copies the positions of one array (B, H, T, D) behind the first `length` of another. */
static void append(const View *from, const View *to, int64_t length)
{
    const Heads source = heads_of(from), target = heads_of(to);
    for (int64_t batch = 0; batch < from->shape[0]; batch++)
        for (int64_t head = 0; head < from->shape[1]; head++)
            for (int64_t t = 0; t < from->shape[2]; t++)
                memcpy(target.data + batch * target.sequence + head * target.head +
                           (length + t) * target.row,
                       source.data + batch * source.sequence + head * source.head + t * source.row,
                       (size_t)from->shape[3] * sizeof(float));
}

/* Writes k and v behind the `length` positions that keys and values hold, counts them, and has the
 * queries attend to all. With fewer positions than `fewest` one thread does. -1, and nothing is
 * written, where the cache has no room for them. */
KERNEL_PLAIN(int, attention_cached, VIEW(q, 1), VIEW(k, fits_keys(q, k)), VIEW(v, alike(k, v, 3)),
             OUT_VIEW(keys, fits_cache(k, keys)), OUT_VIEW(values, fits_cache(v, values)),
             OUT_INT64(length, 1), OUT_VIEW(out, fits_results(q, v, out)),
             OUT(statistics, 2 * q->shape[0] * q->shape[1] * q->shape[2]), COUNT(causal),
             REAL(scale), COUNT(threads), COUNT(fewest))
{
    const int64_t end = *length + k->shape[2];
    if (*length < 0 || end > keys->shape[2] || end > values->shape[2])
        return -1;
    append(k, keys, *length);
    append(v, values, *length);
    *length = end;
    View seen_keys = *keys, seen_values = *values;
    seen_keys.shape[2] = seen_values.shape[2] = end;
    const Attention attention =
        attention_of(q, &seen_keys, &seen_values, out, statistics, causal != 0, scale);
    const int64_t heads = q->shape[0] * q->shape[1];
    return all_heads(0, attention, heads, end < fewest ? 1 : threads);
}

/* Writes the gradients of q, k and v. */
KERNEL_PLAIN(int, attention_backward, VIEW(q, 1), VIEW(k, fits_keys(q, k)), VIEW(v, alike(k, v, 3)),
             VIEW(out, fits_results(q, v, out)),
             IN(statistics, 2 * q->shape[0] * q->shape[1] * q->shape[2]), COUNT(causal),
             REAL(scale), COUNT(dropped), SEED(seed), CALL(call), COUNT(threshold),
             REAL(keep_scale), COUNT(bf16), COUNT(threads), VIEW(grad, fits_results(q, v, grad)),
             OUT_VIEW(grad_q, alike(q, grad_q, 4)), OUT_VIEW(grad_k, alike(k, grad_k, 4)),
             OUT_VIEW(grad_v, alike(v, grad_v, 4)))
{
    const DropoutMask mask = dropout_mask(seed, call, threshold, keep_scale);
    Attention attention = attention_of(q, k, v, out, (float *)statistics, causal != 0, scale);
    attention.mask = dropped ? &mask : NULL;
    attention.bf16 = bf16 != 0;
    attention.grad = heads_of(grad);
    attention.grad_q = heads_of(grad_q);
    attention.grad_k = heads_of(grad_k);
    attention.grad_v = heads_of(grad_v);
    return all_heads(1, attention, q->shape[0] * q->shape[1], threads);
}
