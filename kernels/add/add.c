/* Addition of rows: see reference.py. */
#include "kernel.h"
#include "parallel_for.h"

typedef struct {
    const float *a, *b;
    float *y;
    int64_t columns;
} Addition;

MULTIVERSION static void some_rows(void *job, int64_t first, int64_t last)
{
    const Addition x = *(const Addition *)job;
    for (int64_t i = first; i < last; i++)
        for (int64_t j = 0; j < x.columns; j++)
            x.y[i * x.columns + j] = x.a[i * x.columns + j] + x.b[j];
}

MULTIVERSION static void some_columns(void *job, int64_t first, int64_t last)
{
    const Addition x = *(const Addition *)job;
    for (int64_t j = first; j < last; j++)
        x.y[j] = x.a[j] + x.b[j];
}

/* y (rows, columns) = a + b, of which b (columns) is added to each row; y may be a or b. */
KERNEL_PLAIN(void, add_rows, IN(a, rows * columns), IN(b, columns), OUT(y, rows * columns),
             COUNT(rows), COUNT(columns), COUNT(threads))
{
    Addition job = {a, b, y, columns};
    if (rows == 1)
        parallel_for(some_columns, &job, columns, threads);
    else
        parallel_for(some_rows, &job, rows, threads);
}
