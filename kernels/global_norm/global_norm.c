/* The squares of a flat buffer, added up: see reference.py. */
#include "kernel.h"
#include "parallel_for.h"

typedef struct {
    const float *grad;
    double *sums;
    int64_t size, chunk;
} Squares;

enum { LANES = 32 };

MULTIVERSION static void some_chunks(void *job, int64_t first, int64_t last)
{
    const Squares *const a = job;
    for (int64_t i = first; i < last; i++) {
        const float *const x = a->grad + i * a->chunk;
        const int64_t rest = a->size - i * a->chunk, count = rest < a->chunk ? rest : a->chunk;
        double sums[LANES] = {0}, sum = 0;
        int64_t j = 0;
        for (; j + LANES <= count; j += LANES)
            for (int lane = 0; lane < LANES; lane++)
                sums[lane] += (double)x[j + lane] * (double)x[j + lane];
        for (; j < count; j++)
            sum += (double)x[j] * (double)x[j];
        for (int lane = 0; lane < LANES; lane++)
            sum += sums[lane];
        a->sums[i] = sum;
    }
}

/* Writes the sum of the squares of each `chunk` elements: what it is does not depend on threads. */
KERNEL_PLAIN(void, sums_of_squares, IN(grad, size), OUT_DOUBLE(sums, (size + chunk - 1) / chunk),
             COUNT(size), COUNT(chunk), COUNT(threads))
{
    Squares job = {grad, sums, size, chunk};
    parallel_for(some_chunks, &job, (size + chunk - 1) / chunk, threads);
}
