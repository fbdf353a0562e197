/* Elements of products in float32, for panels.h: each is a number. */
typedef float NAME(Element);

TARGET INLINE float NAME(one)(const float *from, int64_t step, int64_t count)
{
    (void)step, (void)count;
    return *from;
}

TARGET INLINE NAME(Vector) NAME(along)(const float *from) { return *(const NAME(Vector) *)from; }

TARGET INLINE NAME(Vector) NAME(across)(const float *from, int64_t row)
{
    (void)row;
    return *(const NAME(Vector) *)from;
}

TARGET INLINE NAME(Vector) NAME(multiply_add)(NAME(Vector) sum, float x, NAME(Vector) y)
{
    return sum + x * y;
}
