/* A loop over ranges, on threads that wait for it: a kernel may be too short to start threads for. */
#ifndef TINYGRAD_CHAR_PARALLEL_FOR_H
#define TINYGRAD_CHAR_PARALLEL_FOR_H

#include <stdint.h>

typedef void (*Work)(void *job, int64_t first, int64_t last);

/* Calls work(job, first, last) for ranges that make up 0 to count, on at most `threads` threads, of
 * which this one is one. One caller at a time has the others; another does its work alone. */
void parallel_for(Work work, void *job, int64_t count, int64_t threads);

#endif
