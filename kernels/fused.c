/* The Python module kernels._fused: each kernel as a function of buffers and numbers.
 *
 * The functions check that buffers are C-contiguous, of four-byte (or, for targets, eight-byte)
 * items, and large enough; what they mean is for the callers, kernels/fused.py, to keep. The
 * interpreter's lock is released while a kernel runs. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "fused.h"

enum { MOST = 16 };

typedef struct {
    int count; /* of buffers held */
    Py_buffer held[MOST];
    union {
        void *data;
        int64_t whole;
        uint64_t natural;
        float real;
    } at[MOST];
} Arguments;

static void give_back(Arguments *arguments)
{
    while (arguments->count)
        PyBuffer_Release(&arguments->held[--arguments->count]);
}

/* Reads arguments by a pattern: f a float32 array, F one to write to, t int64 targets (any of them
 * may be None, which is NULL); i a whole number, n one from 0 to 2^64 - 1, r a real one. Returns -1
 * with an error set. */
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
        } else if (given[k] == Py_None) {
            arguments->at[k].data = NULL;
        } else {
            Py_buffer *view = &arguments->held[arguments->count];
            const int flags = PyBUF_C_CONTIGUOUS | (pattern[k] == 'F' ? PyBUF_WRITABLE : 0);
            if (PyObject_GetBuffer(given[k], view, flags) < 0)
                break;
            arguments->count++;
            arguments->at[k].data = view->buf;
            if (view->itemsize != (pattern[k] == 't' ? 8 : 4)) {
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
#define TARGETS(k) ((const int64_t *)arguments.at[k].data)
#define WHOLE(k) (arguments.at[k].whole)
#define NATURAL(k) (arguments.at[k].natural)
#define REAL(k) (arguments.at[k].real)

#define FUNCTION(name, pattern, call)                                                     \
    static PyObject *py_##name(PyObject *self, PyObject *const *given, Py_ssize_t count) \
    {                                                                                     \
        Arguments arguments;                                                              \
        (void)self;                                                                       \
        if (take(&arguments, #name, pattern, given, count) < 0)                           \
            return NULL;                                                                  \
        Py_BEGIN_ALLOW_THREADS call;                                                      \
        Py_END_ALLOW_THREADS give_back(&arguments);                                       \
        Py_RETURN_NONE;                                                                   \
    }

FUNCTION(layernorm_forward, "fffFFFiir",
         layernorm_forward(FLOATS(0), FLOATS(1), FLOATS(2), FLOATS(3), FLOATS(4), FLOATS(5),
                           WHOLE(6), WHOLE(7), REAL(8)))
FUNCTION(layernorm_backward, "fffffFFFii",
         layernorm_backward(FLOATS(0), FLOATS(1), FLOATS(2), FLOATS(3), FLOATS(4), FLOATS(5),
                            FLOATS(6), FLOATS(7), WHOLE(8), WHOLE(9)))
FUNCTION(attention_weights, "FFiiii",
         attention_weights(FLOATS(0), FLOATS(1), WHOLE(2), WHOLE(3), WHOLE(4), WHOLE(5)))
FUNCTION(attention_gradients, "FFffiiii",
         attention_gradients(FLOATS(0), FLOATS(1), FLOATS(2), FLOATS(3), WHOLE(4), WHOLE(5),
                             WHOLE(6), WHOLE(7)))
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
FUNCTION(column_sums, "fFii", column_sums(FLOATS(0), FLOATS(1), WHOLE(2), WHOLE(3)))
FUNCTION(cross_entropy_forward, "ftFFii",
         cross_entropy_forward(FLOATS(0), TARGETS(1), FLOATS(2), FLOATS(3), WHOLE(4), WHOLE(5)))
FUNCTION(cross_entropy_backward, "ftfFiir",
         cross_entropy_backward(FLOATS(0), TARGETS(1), FLOATS(2), FLOATS(3), WHOLE(4), WHOLE(5),
                                REAL(6)))
FUNCTION(adamw_update, "FfFFirrrrrrrrr",
         adamw_update(FLOATS(0), FLOATS(1), FLOATS(2), FLOATS(3), WHOLE(4), REAL(5), REAL(6),
                      REAL(7), REAL(8), REAL(9), REAL(10), REAL(11), REAL(12), REAL(13)))

#define ENTRY(name) {#name, (PyCFunction)(void (*)(void))py_##name, METH_FASTCALL, NULL}

static PyMethodDef functions[] = {
    ENTRY(layernorm_forward),
    ENTRY(layernorm_backward),
    ENTRY(attention_weights),
    ENTRY(attention_gradients),
    ENTRY(bias_activation_forward),
    ENTRY(bias_activation_backward),
    ENTRY(dropout_masked),
    ENTRY(residual_forward),
    ENTRY(residual_backward),
    ENTRY(column_sums),
    ENTRY(cross_entropy_forward),
    ENTRY(cross_entropy_backward),
    ENTRY(adamw_update),
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_fused", "The fused kernels for the CPU.", -1, functions,
    NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__fused(void)
{
    return PyModule_Create(&module);
}
