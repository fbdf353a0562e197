/* The Python module kernels._fused: each kernel as a function of buffers and numbers.
 *
 * The functions check that buffers are C-contiguous, of four-byte (or, for indices, eight-byte)
 * items, and large enough; what they mean is for the callers, kernels/fused.py, to keep. The
 * interpreter's lock is released while a kernel runs. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdatomic.h>

#include "attention.h"
#include "fused.h"
#include "spread.h"

enum { MOST = 17 };

typedef struct {
    int count; /* of buffers held */
    Py_buffer held[MOST];
    union {
        void *data;
        int64_t whole;
        uint64_t natural;
        float real;
        double precise;
        const Py_buffer *view;
    } at[MOST];
} Arguments;

static void give_back(Arguments *arguments)
{
    while (arguments->count)
        PyBuffer_Release(&arguments->held[--arguments->count]);
}

/* Reads arguments by a pattern: f a float32 array, F one to write to, t int64 indices, T ones to
 * write to, d a float64 array (any of them may be None, which is NULL); v and V float32 of four
 * axes, of which only the last need be contiguous; i a whole number, n one from 0 to 2^64 - 1, r a
 * real one, R one in double precision. Returns -1 with an error set. */
static int take(Arguments *arguments, const char *name, const char *pattern,
                PyObject *const *given, Py_ssize_t count)
{
    arguments->count = 0;
    if (count != (Py_ssize_t)strlen(pattern)) {
        PyErr_Format(PyExc_TypeError, "%s takes %zu arguments, got %zd", name, strlen(pattern), count);
        return -1;
    }
    for (Py_ssize_t k = 0; k < count; k++) {
        if (pattern[k] == 'i') {
            arguments->at[k].whole = PyLong_AsLongLong(given[k]);
        } else if (pattern[k] == 'n') {
            arguments->at[k].natural = PyLong_AsUnsignedLongLong(given[k]);
        } else if (pattern[k] == 'r') {
            arguments->at[k].real = (float)PyFloat_AsDouble(given[k]);
        } else if (pattern[k] == 'R') {
            arguments->at[k].precise = PyFloat_AsDouble(given[k]);
        } else if (given[k] == Py_None) {
            arguments->at[k].data = NULL;
        } else {
            Py_buffer *view = &arguments->held[arguments->count];
            const int heads = pattern[k] == 'v' || pattern[k] == 'V';
            const int written = strchr("FTV", pattern[k]) != NULL;
            const int flags = (heads ? PyBUF_STRIDES : PyBUF_C_CONTIGUOUS) | (written ? PyBUF_WRITABLE : 0);
            if (PyObject_GetBuffer(given[k], view, flags) < 0)
                break;
            arguments->count++;
            arguments->at[k].data = view->buf;
            if (heads) {
                arguments->at[k].view = view;
                if (view->ndim != 4 || (view->strides[3] != view->itemsize && view->shape[3] > 1)) {
                    PyErr_Format(PyExc_TypeError, "%s: argument %zd is not (B, H, T, D)", name, k + 1);
                    break;
                }
            }
            if (view->itemsize != (strchr("tTd", pattern[k]) ? 8 : 4)) {
                PyErr_Format(PyExc_TypeError, "%s: argument %zd has items of %zd bytes", name, k + 1,
                             view->itemsize);
                break;
            }
        }
        if (PyErr_Occurred())
            break;
    }
    if (PyErr_Occurred()) {
        give_back(arguments);
        return -1;
    }
    return 0;
}

#define FLOATS(k) ((float *)arguments.at[k].data)
#define INDICES(k) ((const int64_t *)arguments.at[k].data)
#define WHOLE(k) (arguments.at[k].whole)
#define NATURAL(k) (arguments.at[k].natural)
#define REAL(k) (arguments.at[k].real)
#define DOUBLES(k) ((const double *)arguments.at[k].data)
#define PRECISE(k) (arguments.at[k].precise)

#define FUNCTION(name, pattern, call)                                                     \
    static PyObject *py_##name(PyObject *self, PyObject *const *given, Py_ssize_t count) \
    {                                                                                     \
        Arguments arguments;                                                              \
        (void)self;                                                                       \
        if (take(&arguments, #name, pattern, given, count) < 0)                           \
            return NULL;                                                                  \
        int failed = 0;                                                                   \
        Py_BEGIN_ALLOW_THREADS call;                                                      \
        Py_END_ALLOW_THREADS give_back(&arguments);                                       \
        if (failed)                                                                       \
            return PyErr_NoMemory();                                                      \
        Py_RETURN_NONE;                                                                   \
    }

/* The same for a kernel whose result is a whole number. */
#define RESULT(name, pattern, call)                                                       \
    static PyObject *py_##name(PyObject *self, PyObject *const *given, Py_ssize_t count) \
    {                                                                                     \
        Arguments arguments;                                                              \
        (void)self;                                                                       \
        if (take(&arguments, #name, pattern, given, count) < 0)                           \
            return NULL;                                                                  \
        int64_t result;                                                                   \
        Py_BEGIN_ALLOW_THREADS result = call;                                             \
        Py_END_ALLOW_THREADS give_back(&arguments);                                       \
        return PyLong_FromLongLong(result);                                               \
    }

FUNCTION(layernorm_forward, "fffFFFiir",
         layernorm_forward(FLOATS(0), FLOATS(1), FLOATS(2), FLOATS(3), FLOATS(4), FLOATS(5),
                           WHOLE(6), WHOLE(7), REAL(8)))
FUNCTION(layernorm_backward, "fffffFFFii",
         layernorm_backward(FLOATS(0), FLOATS(1), FLOATS(2), FLOATS(3), FLOATS(4), FLOATS(5),
                            FLOATS(6), FLOATS(7), WHOLE(8), WHOLE(9)))

static Heads heads_of(const Py_buffer *view)
{
    const int64_t size = (int64_t)sizeof(float);
    return (Heads){view->buf, view->strides[0] / size, view->strides[1] / size,
                   view->strides[2] / size};
}

/* Reads q, k, v, out, logsumexp, causal, scale, then whether there is dropout, and its mask. */
static Attention attention_of(const Arguments *given, DropoutMask *mask)
{
    const Py_buffer *const q = given->at[0].view, *const k = given->at[1].view;
    const Py_buffer *const v = given->at[2].view;
    Attention attention = {
        .heads = q->shape[1],
        .queries = q->shape[2],
        .keys = k->shape[2],
        .size = q->shape[3],
        .value_size = v->shape[3],
        .seen = given->at[5].whole ? 1 + k->shape[2] - q->shape[2] : INT64_MAX / 4,
        .scale = given->at[6].real,
        .q = heads_of(q),
        .k = heads_of(k),
        .v = heads_of(v),
        .out = heads_of(given->at[3].view),
        .logsumexp = given->at[4].data,
    };
    if (given->at[7].whole) {
        *mask = dropout_mask(given->at[8].natural, given->at[9].natural, given->at[10].whole,
                             given->at[11].real);
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

static int spread_heads(AttentionJob *job, const Arguments *given)
{
    const Py_ssize_t *const shape = given->at[0].view->shape;
    spread(run_heads, job, shape[0] * shape[1], given->at[12].whole);
    return job->failed;
}

static int forward_of(const Arguments *given)
{
    DropoutMask mask;
    AttentionJob job = {attention_of(given, &mask), attention_forward, 0};
    return spread_heads(&job, given);
}

static int backward_of(const Arguments *given)
{
    DropoutMask mask;
    AttentionJob job = {attention_of(given, &mask), attention_backward, 0};
    job.attention.grad = heads_of(given->at[13].view);
    job.attention.grad_q = heads_of(given->at[14].view);
    job.attention.grad_k = heads_of(given->at[15].view);
    job.attention.grad_v = heads_of(given->at[16].view);
    return spread_heads(&job, given);
}

FUNCTION(attention_forward, "vvvVFirinniri", failed = forward_of(&arguments))
FUNCTION(attention_backward, "vvvvfirinnirivVVV", failed = backward_of(&arguments))

RESULT(attention_choose_lanes, "i", attention_choose_lanes(WHOLE(0)))
FUNCTION(bias_activation_forward, "ffFiii",
         bias_activation_forward(FLOATS(0), FLOATS(1), FLOATS(2), WHOLE(3), WHOLE(4), WHOLE(5)))
FUNCTION(bias_activation_backward, "fffFFiii",
         bias_activation_backward(FLOATS(0), FLOATS(1), FLOATS(2), FLOATS(3), FLOATS(4), WHOLE(5),
                                  WHOLE(6), WHOLE(7)))
FUNCTION(dropout_masked, "fFinnir",
         dropout_masked(FLOATS(0), FLOATS(1), WHOLE(2), NATURAL(3), NATURAL(4), WHOLE(5), REAL(6)))
FUNCTION(residual_forward, "Fffiinnir",
         residual_forward(FLOATS(0), FLOATS(1), FLOATS(2), WHOLE(3), WHOLE(4), NATURAL(5),
                          NATURAL(6), WHOLE(7), REAL(8)))
FUNCTION(residual_backward, "fFFiinnir",
         residual_backward(FLOATS(0), FLOATS(1), FLOATS(2), WHOLE(3), WHOLE(4), NATURAL(5),
                           NATURAL(6), WHOLE(7), REAL(8)))
FUNCTION(linear_few_rows, "fffFiiii",
         linear_few_rows(FLOATS(0), FLOATS(1), FLOATS(2), FLOATS(3), WHOLE(4), WHOLE(5), WHOLE(6),
                         WHOLE(7)))
FUNCTION(column_sums, "fFii", column_sums(FLOATS(0), FLOATS(1), WHOLE(2), WHOLE(3)))
RESULT(count_targets, "tiii", count_targets(INDICES(0), WHOLE(1), WHOLE(2), WHOLE(3)))
FUNCTION(cross_entropy_forward, "ftFFiii",
         cross_entropy_forward(FLOATS(0), INDICES(1), FLOATS(2), FLOATS(3), WHOLE(4), WHOLE(5),
                               WHOLE(6)))
FUNCTION(cross_entropy_backward, "ftfFiiir",
         cross_entropy_backward(FLOATS(0), INDICES(1), FLOATS(2), FLOATS(3), WHOLE(4), WHOLE(5),
                                WHOLE(6), REAL(7)))
RESULT(embedding_forward, "tfFiii",
       embedding_forward(INDICES(0), FLOATS(1), FLOATS(2), WHOLE(3), WHOLE(4), WHOLE(5)))
RESULT(embedding_backward, "ftFiii",
       embedding_backward(FLOATS(0), INDICES(1), FLOATS(2), WHOLE(3), WHOLE(4), WHOLE(5)))
FUNCTION(adamw_update, "FfFFirrrrrrrrr",
         adamw_update(FLOATS(0), FLOATS(1), FLOATS(2), FLOATS(3), WHOLE(4), REAL(5), REAL(6),
                      REAL(7), REAL(8), REAL(9), REAL(10), REAL(11), REAL(12), REAL(13)))
FUNCTION(running_mean_forward, "fFiiii",
         running_mean_forward(FLOATS(0), FLOATS(1), WHOLE(2), WHOLE(3), WHOLE(4), WHOLE(5)))
FUNCTION(running_mean_backward, "fFiiii",
         running_mean_backward(FLOATS(0), FLOATS(1), WHOLE(2), WHOLE(3), WHOLE(4), WHOLE(5)))
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
FUNCTION(sampling, "fdTiiRiR",
         failed = sampling(FLOATS(0), DOUBLES(1), (int64_t *)arguments.at[2].data, WHOLE(3),
                           WHOLE(4), PRECISE(5), WHOLE(6), PRECISE(7)))

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
    ENTRY(count_targets),
    ENTRY(cross_entropy_forward),
    ENTRY(cross_entropy_backward),
    ENTRY(embedding_forward),
    ENTRY(embedding_backward),
    ENTRY(adamw_update),
    ENTRY(running_mean_forward),
    ENTRY(running_mean_backward),
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
    attention_choose_lanes(INT64_MAX);
    return PyModule_Create(&module);
}
