/* What a kernel is called with, and the kernels by name: see fused.c. */
#ifndef TINYGRAD_CHAR_ARGUMENTS_H
#define TINYGRAD_CHAR_ARGUMENTS_H

#include <stdint.h>

enum { MOST_ARGUMENTS = 17, MOST_VIEWS = 8 };

/* An array (B, H, T, D) with any strides, in numbers, but that of its last axis, which is 1. */
typedef struct {
    float *data;
    int64_t shape[4], strides[3];
} View;

typedef struct {
    union {
        void *data;
        int64_t whole; /* for an array of four axes, its place among the views */
        uint64_t natural;
        float real;
        double precise;
    } at[MOST_ARGUMENTS];
    View views[MOST_VIEWS];
} Arguments;

/* Does a kernel's work; returns 0, -1 where there was no memory for it, or the kernel's result. */
typedef int64_t Run(const Arguments *arguments);

typedef struct {
    const char *name, *pattern; /* see take() */
    Run *run;
    int has_result;
} Kernel;

#endif
