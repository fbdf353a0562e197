/* One token for each row of logits: see reference.py. logits (rows, classes).
 *
 * Sums are float64 and run in the order of the reference's. exp is the C library's, which may be one
 * unit in the last place from NumPy's: a token may be another one where its sum is so close to the
 * threshold, about once in 10^15 draws; the same holds at the edge of top-p. */
#include <stdlib.h>

#include "kernel.h"

typedef struct {
    double number;
    int64_t class;
} Entry;

/* The classes of a row: the largest number first, and of equal ones the first class. */
typedef struct {
    Entry *entries;
    int64_t count;
} Heap;

/* Without branches, which a processor could not foretell. */
INLINE int comes_before(const Entry *a, const Entry *b)
{
    return (a->number > b->number) | ((a->number == b->number) & (a->class < b->class));
}

/* Puts an entry where a place is free: first the place moves to the bottom, then the entry up. */
static void put(Heap *heap, int64_t top, Entry entry)
{
    Entry *const entries = heap->entries;
    int64_t place = top, child = 2 * top + 1;
    for (; child < heap->count; child = 2 * place + 1) {
        if (child + 1 < heap->count)
            child += comes_before(&entries[child + 1], &entries[child]);
        entries[place] = entries[child];
        place = child;
    }
    for (int64_t parent; place > top; place = parent) {
        parent = (place - 1) / 2;
        if (!comes_before(&entry, &entries[parent]))
            break;
        entries[place] = entries[parent];
    }
    entries[place] = entry;
}

static Heap heap_of(const double *values, int64_t count, Entry *entries)
{
    Heap heap = {entries, count};
    for (int64_t j = 0; j < count; j++)
        entries[j] = (Entry){values[j], j};
    for (int64_t j = count / 2 - 1; j >= 0; j--)
        put(&heap, j, entries[j]);
    return heap;
}

/* Takes the first entry out. */
static Entry pop(Heap *heap)
{
    const Entry first = heap->entries[0];
    heap->count--;
    if (heap->count)
        put(heap, 0, heap->entries[heap->count]);
    return first;
}

static double sum_of(const double *values, int64_t count)
{
    double sum = 0;
    for (int64_t j = 0; j < count; j++)
        sum += values[j];
    return sum;
}

/* The first of the largest logits; -1 where that is not finite, or one is not a number. */
static int64_t likeliest(const float *logits, int64_t classes)
{
    int64_t best = 0;
    for (int64_t j = 0; j < classes; j++) {
        if (isnan(logits[j]))
            return -1;
        if (logits[j] > logits[best])
            best = j;
    }
    return isfinite(logits[best]) ? best : -1;
}

/* Leaves -infinity in the place of what is less than the k-th largest number. */
static void keep_largest(double *values, int64_t classes, int64_t k, Entry *room)
{
    Heap heap = heap_of(values, classes, room);
    for (int64_t j = 1; j < k; j++)
        pop(&heap);
    const double least = room[0].number;
    for (int64_t j = 0; j < classes; j++)
        if (values[j] < least)
            values[j] = -INFINITY;
}

/* Leaves 0 in the place of the weights before which, likeliest first, p of the total was reached. */
static void keep_reaching(double *weights, int64_t classes, double p, double total, Entry *room)
{
    Heap heap = heap_of(weights, classes, room);
    for (double before = 0; heap.count && before < p;)
        before += pop(&heap).number / total;
    for (int64_t j = 0; j < heap.count; j++)
        weights[room[j].class] = 0;
}

static int64_t choose(const float *logits, double uniform, int64_t classes, double temperature,
                      int64_t top_k, double top_p, double *weights, Entry *room)
{
    float peak = -INFINITY;
    for (int64_t j = 0; j < classes; j++)
        peak = logits[j] > peak ? logits[j] : peak;
    for (int64_t j = 0; j < classes; j++)
        weights[j] = (double)logits[j] - (double)peak;
    if (top_k < classes)
        keep_largest(weights, classes, top_k, room);
    for (int64_t j = 0; j < classes; j++)
        weights[j] = exp(weights[j] / temperature);
    double total = sum_of(weights, classes);
    if (!(total > 0)) /* not a number, since the largest has the weight 1 */
        return -1;
    if (top_p < 1) {
        keep_reaching(weights, classes, top_p, total, room);
        total = sum_of(weights, classes);
    }
    const double threshold = uniform * total;
    int64_t chosen = 0;
    for (double sum = weights[0]; sum <= threshold && chosen + 1 < classes;)
        sum += weights[++chosen];
    return chosen;
}

/* Returns -1 where there is no memory for it. */
KERNEL_PLAIN(int, sampling, IN(logits, rows * classes), IN_DOUBLE(uniform, rows),
             OUT_INT64(tokens, rows), COUNT(rows), COUNT(classes), DOUBLE(temperature),
             COUNT(top_k), DOUBLE(top_p))
{
    Entry *const room = malloc((size_t)classes * (sizeof(Entry) + sizeof(double)));
    if (!room)
        return -1;
    for (int64_t i = 0; i < rows; i++, logits += classes)
        tokens[i] = temperature == 0 ? likeliest(logits, classes)
                                     : choose(logits, uniform[i], classes, temperature, top_k,
                                              top_p, (double *)(room + classes), room);
    free(room);
    return 0;
}
