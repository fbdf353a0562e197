/* What the fused attention is told: see reference.py for the equations. */
#ifndef TINYGRAD_CHAR_ATTENTION_H
#define TINYGRAD_CHAR_ATTENTION_H

#include "philox.h"

/* An array (B, H, T, D) with any strides but that of its last axis, which is contiguous. */
typedef struct {
    float *data;
    int64_t sequence, head, row; /* strides, in elements */
} Heads;

typedef struct {
    int64_t heads; /* of a sequence; in all, they are counted sequence after sequence */
    int64_t queries, keys, size, value_size;
    int64_t seen; /* how many keys the first query sees; each further query sees one more */
    float scale, sign, magnitude; /* the scale's sign, and the rest, which is positive */
    Heads q, k, v, out, grad, grad_q, grad_k, grad_v;
    float *statistics;       /* contiguous: the peak and the total of each query */
    const DropoutMask *mask; /* NULL where nothing is dropped */
    int bf16;                /* whether operands of products are rounded to bfloat16 */
} Attention;

#endif
