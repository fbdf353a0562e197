/* One token for each row of logits: see sampling.py. logits (rows, classes).
 *
 * Sums are float64 and run in the order of the reference's. exp is the C library's, which may be one
 * unit in the last place from NumPy's: a token may be another one where its sum is so close to the
 * threshold, about once in 10^15 draws; the same holds at the edge of top-p. */
#include <stdlib.h>

#include "fused.h"

/* The classes of a row as a heap: the largest number first, and of equal ones the first class. */
typedef struct {
    const double *numbers;
    int64_t *classes;
    int64_t count;
} Heap;

INLINE int comes_before(const Heap *heap, int64_t a, int64_t b)
{
    const double x = heap->numbers[a], y = heap->numbers[b];
    return x > y || (x == y && a < b);
}

/* Moves the class at a place down to where both that follow it come later. */
static void sift(Heap *heap, int64_t place)
{
    const int64_t moved = heap->classes[place];
    for (int64_t child; (child = 2 * place + 1) < heap->count; place = child) {
        if (child + 1 < heap->count &&
            comes_before(heap, heap->classes[child + 1], heap->classes[child]))
            child++;
        if (!comes_before(heap, heap->classes[child], moved))
            break;
        heap->classes[place] = heap->classes[child];
    }
    heap->classes[place] = moved;
}

static Heap heap_of(const double *numbers, int64_t *classes, int64_t count)
{
    Heap heap = {numbers, classes, count};
    for (int64_t j = 0; j < count; j++)
        classes[j] = j;
    for (int64_t j = count / 2 - 1; j >= 0; j--)
        sift(&heap, j);
    return heap;
}

/* Takes the first class out. */
static int64_t pop(Heap *heap)
{
    const int64_t first = heap->classes[0];
    heap->classes[0] = heap->classes[--heap->count];
    if (heap->count)
        sift(heap, 0);
    return first;
}

static double sum_of(const double *numbers, int64_t count)
{
    double sum = 0;
    for (int64_t j = 0; j < count; j++)
        sum += numbers[j];
    return sum;
}

/* The first of the largest logits, or the first NaN. */
static int64_t likeliest(const float *logits, int64_t classes)
{
    int64_t best = 0;
    for (int64_t j = 0; j < classes; j++) {
        if (isnan(logits[j]))
            return j;
        if (logits[j] > logits[best])
            best = j;
    }
    return best;
}

/* Leaves -infinity in the place of what is less than the k-th largest number. */
static void keep_largest(double *numbers, int64_t classes, int64_t k, int64_t *room)
{
    Heap heap = heap_of(numbers, room, classes);
    for (int64_t j = 1; j < k; j++)
        pop(&heap);
    const double least = numbers[heap.classes[0]];
    for (int64_t j = 0; j < classes; j++)
        if (numbers[j] < least)
            numbers[j] = -INFINITY;
}

/* Leaves 0 in the place of the weights before which, likeliest first, p of the total was reached. */
static void keep_reaching(double *weights, int64_t classes, double p, double total, int64_t *room)
{
    Heap heap = heap_of(weights, room, classes);
    for (double before = 0; heap.count && before < p;)
        before += weights[pop(&heap)] / total;
    for (int64_t j = 0; j < heap.count; j++)
        weights[heap.classes[j]] = 0;
}

static int64_t choose(const float *logits, double uniform, int64_t classes, double temperature,
                      int64_t top_k, double top_p, double *weights, int64_t *room)
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
int sampling(const float *logits, const double *uniform, int64_t *tokens, int64_t rows,
             int64_t classes, double temperature, int64_t top_k, double top_p)
{
    double *const weights = malloc((size_t)classes * (sizeof(double) + sizeof(int64_t)));
    if (!weights)
        return -1;
    for (int64_t i = 0; i < rows; i++, logits += classes)
        tokens[i] = temperature == 0 ? likeliest(logits, classes)
                                     : choose(logits, uniform[i], classes, temperature, top_k,
                                              top_p, weights, (int64_t *)(weights + classes));
    free(weights);
    return 0;
}
