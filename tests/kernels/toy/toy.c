/* The square of each element: see reference.py for the equations. */
#include "kernel.h"

KERNEL(void, toy_forward, IN(x, count), OUT(y, count), COUNT(count))
{
    for (int64_t i = 0; i < count; i++)
        y[i] = x[i] * x[i];
}

KERNEL(void, toy_backward, IN(grad, count), IN(x, count), OUT(dx, count), COUNT(count))
{
    for (int64_t i = 0; i < count; i++)
        dx[i] = 2 * x[i] * grad[i];
}
