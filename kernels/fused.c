/* The Python module tinygrad_char.kernels._fused: each kernel as a function of buffers and numbers.
 *
 * The functions check that buffers are C-contiguous, and of four-byte (or, for indices, eight-byte)
 * items; how large they are and what they mean is for the callers, kernels/fused.py, to keep. The
 * interpreter's lock is released while a kernel runs. What a thread calls while it records a
 * program becomes a part of that, see program.c. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdatomic.h>

#include "arguments.h"
#include "attention.h"
#include "fork.h"
#include "fused.h"
#include "program.h"
#include "spread.h"

typedef struct {
    int count;
    Py_buffer buffers[MOST_ARGUMENTS];
} Held;

static void give_back(Held *held)
{
    while (held->count)
        PyBuffer_Release(&held->buffers[--held->count]);
}

static int take_view(View *to, const Py_buffer *view, const char *name, Py_ssize_t number)
{
    if (view->ndim != 4 || (view->strides[3] != view->itemsize && view->shape[3] > 1)) {
        PyErr_Format(PyExc_TypeError, "%s: argument %zd is not (B, H, T, D)", name, number);
        return -1;
    }
    to->data = view->buf;
    for (int axis = 0; axis < 4; axis++)
        to->shape[axis] = view->shape[axis];
    for (int axis = 0; axis < 3; axis++) {
        to->strides[axis] = view->strides[axis] / view->itemsize;
        if (view->strides[axis] % view->itemsize) {
            PyErr_Format(PyExc_TypeError, "%s: argument %zd is not aligned", name, number);
            return -1;
        }
    }
    return 0;
}

/* Reads arguments by a pattern: f a float32 array, F one to write to, t int64 indices, T ones to
 * write to, d and D the same in float64 (any of them may be None, which is NULL); v and V float32
 * of four axes, of which only the last need be contiguous; i a whole number, n one from 0 to
 * 2^64 - 1, r a real one, R one in double precision; s and, next to it, k the seed and the number
 * of the call that a dropout mask is made of. Returns -1 with an error set. */
static int take(Arguments *arguments, Held *held, const char *name, const char *pattern,
                PyObject *const *given, Py_ssize_t count)
{
    int64_t views = 0;
    held->count = 0;
    if (count != (Py_ssize_t)strlen(pattern)) {
        PyErr_Format(PyExc_TypeError, "%s takes %zu arguments, got %zd", name, strlen(pattern),
                     count);
        return -1;
    }
    for (Py_ssize_t k = 0; k < count; k++) {
        const char letter = pattern[k];
        if (letter == 'i') {
            arguments->at[k].whole = PyLong_AsLongLong(given[k]);
        } else if (letter == 'n' || letter == 's' || letter == 'k') {
            arguments->at[k].natural = PyLong_AsUnsignedLongLong(given[k]);
        } else if (letter == 'r') {
            arguments->at[k].real = (float)PyFloat_AsDouble(given[k]);
        } else if (letter == 'R') {
            arguments->at[k].precise = PyFloat_AsDouble(given[k]);
        } else if (given[k] == Py_None) {
            arguments->at[k].data = NULL;
        } else {
            Py_buffer *const view = &held->buffers[held->count];
            const int of_heads = letter == 'v' || letter == 'V';
            const int written = strchr("FTDV", letter) != NULL;
            const int flags = (of_heads ? PyBUF_STRIDES : PyBUF_C_CONTIGUOUS) |
                              (written ? PyBUF_WRITABLE : 0);
            if (PyObject_GetBuffer(given[k], view, flags) < 0)
                break;
            held->count++;
            arguments->at[k].data = view->buf;
            if (of_heads) {
                if (take_view(&arguments->views[views], view, name, k + 1) < 0)
                    break;
                arguments->at[k].whole = views++;
            }
            if (view->itemsize != (strchr("tTdD", letter) ? 8 : 4)) {
                PyErr_Format(PyExc_TypeError, "%s: argument %zd has items of %zd bytes", name,
                             k + 1, view->itemsize);
                break;
            }
        }
        if (PyErr_Occurred())
            break;
    }
    if (PyErr_Occurred()) {
        give_back(held);
        return -1;
    }
    return 0;
}

static PyObject *call(const Kernel *kernel, PyObject *const *given, Py_ssize_t count)
{
    Arguments arguments;
    Held held;
    if (take(&arguments, &held, kernel->name, kernel->pattern, given, count) < 0)
        return NULL;
    const Py_ssize_t recorded = program_record(kernel, &arguments, given);
    if (recorded == -2) {
        give_back(&held);
        return NULL;
    }
    int64_t result;
    Py_BEGIN_ALLOW_THREADS result = kernel->run(&arguments);
    Py_END_ALLOW_THREADS give_back(&held);
    if (recorded >= 0)
        program_expect(recorded, result);
    if (kernel->has_result)
        return PyLong_FromLongLong(result);
    if (result < 0)
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}

#define FLOATS(k) ((float *)a->at[k].data)
#define INDICES(k) ((const int64_t *)a->at[k].data)
#define WHOLE(k) (a->at[k].whole)
#define NATURAL(k) (a->at[k].natural)
#define DOUBLES(k) ((double *)a->at[k].data)
#define REAL(k) (a->at[k].real)
#define PRECISE(k) (a->at[k].precise)
#define VIEW(k) (&a->views[a->at[k].whole])

#define KERNEL(name, pattern, has_result, body)                                          \
    static int64_t run_##name(const Arguments *a) { body; }                              \
    static const Kernel kernel_##name = {#name, pattern, run_##name, has_result};        \
    static PyObject *py_##name(PyObject *self, PyObject *const *given, Py_ssize_t count) \
    {                                                                                    \
        (void)self;                                                                      \
        return call(&kernel_##name, given, count);                                       \
    }
/* A kernel that cannot fail, one that can run out of memory, and one whose result is a number. */
#define FUNCTION(name, pattern, work) KERNEL(name, pattern, 0, work; return 0)
#define FALLIBLE(name, pattern, work) KERNEL(name, pattern, 0, return work)
#define RESULT(name, pattern, work) KERNEL(name, pattern, 1, return work)

FUNCTION(layernorm_forward, "fffFFFiir",
         layernorm_forward(FLOATS(0), FLOATS(1), FLOATS(2), FLOATS(3), FLOATS(4), FLOATS(5),
                           WHOLE(6), WHOLE(7), REAL(8)))
FALLIBLE(layernorm_backward, "ffffffFFFii",
         layernorm_backward(FLOATS(0), FLOATS(1), FLOATS(2), FLOATS(3), FLOATS(4), FLOATS(5),
                            FLOATS(6), FLOATS(7), FLOATS(8), WHOLE(9), WHOLE(10)))

static Heads heads_of(const View *view)
{
    return (Heads){view->data, view->strides[0], view->strides[1], view->strides[2]};
}

/* Reads q, k, v, out, statistics, causal, scale, then whether there is dropout, and its mask. */
static Attention attention_of(const Arguments *a, DropoutMask *mask)
{
    const View *const q = VIEW(0), *const k = VIEW(1), *const v = VIEW(2);
    const float scale = REAL(6);
    Attention attention = {
        .heads = q->shape[1],
        .queries = q->shape[2],
        .keys = k->shape[2],
        .size = q->shape[3],
        .value_size = v->shape[3],
        .seen = WHOLE(5) ? 1 + k->shape[2] - q->shape[2] : INT64_MAX / 4,
        .scale = scale,
        .sign = scale < 0 ? -1 : scale == 0 ? 0 : 1,
        .magnitude = scale == 0 ? 1 : fabsf(scale),
        .q = heads_of(q),
        .k = heads_of(k),
        .v = heads_of(v),
        .out = heads_of(VIEW(3)),
        .statistics = FLOATS(4),
    };
    if (WHOLE(7)) {
        *mask = dropout_mask(NATURAL(8), NATURAL(9), WHOLE(10), REAL(11));
        attention.mask = mask;
    }
    return attention;
}

typedef struct {
    Attention attention;
    int (*run)(const Attention *a, int64_t first, int64_t last);
    atomic_int failed;
} AttentionJob;

static void run_heads(void *work, int64_t first, int64_t last)
{
    AttentionJob *const job = work;
    if (job->run(&job->attention, first, last) < 0)
        atomic_store(&job->failed, 1);
}

static int64_t spread_heads(AttentionJob *job, const Arguments *a)
{
    spread(run_heads, job, VIEW(0)->shape[0] * VIEW(0)->shape[1], WHOLE(12));
    return job->failed ? -1 : 0;
}

static int64_t forward_of(const Arguments *a)
{
    DropoutMask mask;
    AttentionJob job = {attention_of(a, &mask), attention_forward, 0};
    return spread_heads(&job, a);
}

static int64_t backward_of(const Arguments *a)
{
    DropoutMask mask;
    AttentionJob job = {attention_of(a, &mask), attention_backward, 0};
    job.attention.grad = heads_of(VIEW(13));
    job.attention.grad_q = heads_of(VIEW(14));
    job.attention.grad_k = heads_of(VIEW(15));
    job.attention.grad_v = heads_of(VIEW(16));
    return spread_heads(&job, a);
}

FALLIBLE(attention_forward, "vvvVFiriskiri", forward_of(a))
FALLIBLE(attention_backward, "vvvvfiriskirivVVV", backward_of(a))

RESULT(attention_choose_lanes, "i", attention_choose_lanes(WHOLE(0)))
FUNCTION(bias_activation_forward, "ffFiii",
         bias_activation_forward(FLOATS(0), FLOATS(1), FLOATS(2), WHOLE(3), WHOLE(4), WHOLE(5)))
FALLIBLE(bias_activation_backward, "fffFFiii",
         bias_activation_backward(FLOATS(0), FLOATS(1), FLOATS(2), FLOATS(3), FLOATS(4), WHOLE(5),
                                  WHOLE(6), WHOLE(7)))
FUNCTION(dropout_masked, "fFiskir",
         dropout_masked(FLOATS(0), FLOATS(1), WHOLE(2), NATURAL(3), NATURAL(4), WHOLE(5), REAL(6)))
FUNCTION(residual_forward, "Fffiiskir",
         residual_forward(FLOATS(0), FLOATS(1), FLOATS(2), WHOLE(3), WHOLE(4), NATURAL(5),
                          NATURAL(6), WHOLE(7), REAL(8)))
FALLIBLE(residual_backward, "fFFiiskir",
         residual_backward(FLOATS(0), FLOATS(1), FLOATS(2), WHOLE(3), WHOLE(4), NATURAL(5),
                           NATURAL(6), WHOLE(7), REAL(8)))
FUNCTION(linear_few_rows, "fffFiiii",
         linear_few_rows(FLOATS(0), FLOATS(1), FLOATS(2), FLOATS(3), WHOLE(4), WHOLE(5), WHOLE(6),
                         WHOLE(7)))
FALLIBLE(column_sums, "fFiii",
         column_sums(FLOATS(0), FLOATS(1), WHOLE(2), WHOLE(3), WHOLE(4)))
FALLIBLE(product, "ffFiiiiiii",
         product(FLOATS(0), FLOATS(1), FLOATS(2), WHOLE(3), WHOLE(4), WHOLE(5), (int)WHOLE(6),
                 (int)WHOLE(7), (int)WHOLE(8), WHOLE(9)))
RESULT(product_choose_lanes, "i", product_choose_lanes(WHOLE(0)))
RESULT(bind_sgemm, "iii", bind_sgemm(WHOLE(0), WHOLE(1), WHOLE(2)))
FUNCTION(add_rows, "ffFiii",
         add_rows(FLOATS(0), FLOATS(1), FLOATS(2), WHOLE(3), WHOLE(4), WHOLE(5)))
RESULT(count_targets, "tiii", count_targets(INDICES(0), WHOLE(1), WHOLE(2), WHOLE(3)))
FUNCTION(cross_entropy_forward, "ftFFFiiii",
         cross_entropy_forward(FLOATS(0), INDICES(1), FLOATS(2), FLOATS(3), FLOATS(4), WHOLE(5),
                               WHOLE(6), WHOLE(7), WHOLE(8)))
FUNCTION(cross_entropy_backward, "fftfFiiii",
         cross_entropy_backward(FLOATS(0), FLOATS(1), INDICES(2), FLOATS(3), FLOATS(4), WHOLE(5),
                                WHOLE(6), WHOLE(7), WHOLE(8)))
RESULT(embedding_forward, "tffFiiii",
       embedding_forward(INDICES(0), FLOATS(1), FLOATS(2), FLOATS(3), WHOLE(4), WHOLE(5),
                         WHOLE(6), WHOLE(7)))
RESULT(embedding_backward, "ftFiii",
       embedding_backward(FLOATS(0), INDICES(1), FLOATS(2), WHOLE(3), WHOLE(4), WHOLE(5)))
FUNCTION(adamw_update, "FfFFirrrrrrrrri",
         adamw_update(FLOATS(0), FLOATS(1), FLOATS(2), FLOATS(3), WHOLE(4), REAL(5), REAL(6),
                      REAL(7), REAL(8), REAL(9), REAL(10), REAL(11), REAL(12), REAL(13),
                      WHOLE(14)))
FUNCTION(sums_of_squares, "fDiii",
         sums_of_squares(FLOATS(0), DOUBLES(1), WHOLE(2), WHOLE(3), WHOLE(4)))
FUNCTION(running_mean_forward, "fFiiii",
         running_mean_forward(FLOATS(0), FLOATS(1), WHOLE(2), WHOLE(3), WHOLE(4), WHOLE(5)))
FUNCTION(running_mean_backward, "fFiiii",
         running_mean_backward(FLOATS(0), FLOATS(1), WHOLE(2), WHOLE(3), WHOLE(4), WHOLE(5)))
FALLIBLE(running_sum, "fFiiii",
         running_sum(FLOATS(0), FLOATS(1), WHOLE(2), WHOLE(3), WHOLE(4), WHOLE(5)))
FUNCTION(softmax_forward, "fFiiiiiri",
         softmax_forward(FLOATS(0), FLOATS(1), WHOLE(2), WHOLE(3), WHOLE(4), WHOLE(5), WHOLE(6),
                         REAL(7), WHOLE(8)))
FUNCTION(softmax_backward, "ffFiiiiri",
         softmax_backward(FLOATS(0), FLOATS(1), FLOATS(2), WHOLE(3), WHOLE(4), WHOLE(5), WHOLE(6),
                          REAL(7), WHOLE(8)))
FUNCTION(log_softmax_forward, "fFiii",
         log_softmax_forward(FLOATS(0), FLOATS(1), WHOLE(2), WHOLE(3), WHOLE(4)))
FUNCTION(log_softmax_backward, "ffFiii",
         log_softmax_backward(FLOATS(0), FLOATS(1), FLOATS(2), WHOLE(3), WHOLE(4), WHOLE(5)))
FALLIBLE(sampling, "fdTiiRiR",
         sampling(FLOATS(0), DOUBLES(1), (int64_t *)a->at[2].data, WHOLE(3), WHOLE(4), PRECISE(5),
                  WHOLE(6), PRECISE(7)))

#define ENTRY(name) {#name, (PyCFunction)(void (*)(void))py_##name, METH_FASTCALL, NULL}

static PyMethodDef functions[] = {
    ENTRY(layernorm_forward),
    ENTRY(layernorm_backward),
    ENTRY(attention_forward),
    ENTRY(attention_backward),
    ENTRY(attention_choose_lanes),
    ENTRY(bias_activation_forward),
    ENTRY(bias_activation_backward),
    ENTRY(dropout_masked),
    ENTRY(residual_forward),
    ENTRY(residual_backward),
    ENTRY(linear_few_rows),
    ENTRY(column_sums),
    ENTRY(product),
    ENTRY(product_choose_lanes),
    ENTRY(bind_sgemm),
    ENTRY(add_rows),
    ENTRY(count_targets),
    ENTRY(cross_entropy_forward),
    ENTRY(cross_entropy_backward),
    ENTRY(embedding_forward),
    ENTRY(embedding_backward),
    ENTRY(adamw_update),
    ENTRY(sums_of_squares),
    ENTRY(running_mean_forward),
    ENTRY(running_mean_backward),
    ENTRY(running_sum),
    ENTRY(softmax_forward),
    ENTRY(softmax_backward),
    ENTRY(log_softmax_forward),
    ENTRY(log_softmax_backward),
    ENTRY(sampling),
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_fused", "The fused kernels for the CPU.", -1, functions,
    NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__fused(void)
{
    prepare_for_forks();
    attention_choose_lanes(INT64_MAX);
    product_choose_lanes(INT64_MAX);
    PyObject *const fused = PyModule_Create(&module);
    if (fused && program_add_type(fused) < 0) {
        Py_DECREF(fused);
        return NULL;
    }
    return fused;
}
