/* The squares of a flat buffer, added up: see global_norm.py. */
#include "fused.h"
#include "spread.h"

typedef struct {
    const float *numbers;
    double *sums;
    int64_t size, chunk;
} Squares;

MULTIVERSION static void some_chunks(void *job, int64_t first, int64_t last)
{
    const Squares *const a = job;
    for (int64_t i = first; i < last; i++) {
        const int64_t end = (i + 1) * a->chunk < a->size ? (i + 1) * a->chunk : a->size;
        double sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t j = i * a->chunk; j < end; j++)
            sum += (double)a->numbers[j] * (double)a->numbers[j];
        a->sums[i] = sum;
    }
}

/* Writes the sum of the squares of each `chunk` numbers: what it is does not depend on threads. */
void sums_of_squares(const float *numbers, double *sums, int64_t size, int64_t chunk,
                     int64_t threads)
{
    Squares job = {numbers, sums, size, chunk};
    spread(some_chunks, &job, (size + chunk - 1) / chunk, threads);
}
