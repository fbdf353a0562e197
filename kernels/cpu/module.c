/* The Python module tinygrad_char.kernels.cpu._c: each kernel as a function of buffers and numbers.
 *
 * What a kernel takes is declared in front of it, see kernel.h, and checked here. The interpreter's
 * lock is released while a kernel runs. What a thread calls while it records a program becomes a
 * part of that, see program.c. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdlib.h>
#include <string.h>

#include "fork.h"
#include "kernel.h"
#include "program.h"

typedef struct {
    int count;
    Py_buffer buffers[MOST_ARGUMENTS];
} Held;

static Kernel *kernels; /* in a list */

void kernel_register(Kernel *kernel)
{
    kernel->next = kernels;
    kernels = kernel;
}

static void give_back(Held *held)
{
    while (held->count)
        PyBuffer_Release(&held->buffers[--held->count]);
}

/* What a letter asks of a buffer: how it is taken, and its items as struct's formats name them (two
 * names, of which one may be the other), in bytes, and in words. */
typedef struct {
    int flags;
    char format, other;
    Py_ssize_t size;
    const char *name;
} Items;

enum {
    READ = PyBUF_FORMAT | PyBUF_C_CONTIGUOUS,
    WRITTEN = READ | PyBUF_WRITABLE,
    VIEWED = PyBUF_FORMAT | PyBUF_STRIDES,
};

static const Items items_of[] = {
    ['f'] = {READ, 'f', 'f', 4, "float32"},
    ['F'] = {WRITTEN, 'f', 'f', 4, "float32"},
    ['g'] = {READ, 'f', 'f', 4, "float32"},
    ['G'] = {WRITTEN, 'f', 'f', 4, "float32"},
    ['v'] = {VIEWED, 'f', 'f', 4, "float32"},
    ['V'] = {VIEWED | PyBUF_WRITABLE, 'f', 'f', 4, "float32"},
    ['t'] = {READ, 'l', 'q', 8, "int64"},
    ['T'] = {WRITTEN, 'l', 'q', 8, "int64"},
    ['d'] = {READ, 'd', 'd', 8, "float64"},
    ['D'] = {WRITTEN, 'd', 'd', 8, "float64"},
};

static int is_view(char letter) { return letter == 'v' || letter == 'V'; }

static int is_of(const Py_buffer *buffer, const Items *items)
{
    const char *format = buffer->format;
    if (format && (*format == '@' || *format == '='))
        format++;
    return format && (*format == items->format || *format == items->other) && !format[1] &&
           buffer->itemsize == items->size;
}

/* Sets the error that says what an argument is and what it should be; returns -1. */
static int refuse(const Kernel *kernel, int k, const char *words)
{
    PyErr_Format(PyExc_TypeError, "%s: %s %s", kernel->name, kernel->names[k], words);
    return -1;
}

static int take_view(const Kernel *kernel, int k, View *to, const Py_buffer *buffer)
{
    if (buffer->ndim != 4 || (buffer->strides[3] != buffer->itemsize && buffer->shape[3] > 1))
        return refuse(kernel, k, "is not (B, H, T, D) with elements of the last axis side by side");
    to->data = buffer->buf;
    for (int axis = 0; axis < 4; axis++)
        to->shape[axis] = buffer->shape[axis];
    for (int axis = 0; axis < 3; axis++) {
        to->strides[axis] = buffer->strides[axis] / buffer->itemsize;
        if (buffer->strides[axis] % buffer->itemsize)
            return refuse(kernel, k, "has strides that are no multiples of its elements' size");
    }
    return 0;
}

static int take_buffer(const Kernel *kernel, int k, Arguments *to, Held *held, int64_t *views,
                       int64_t *size, PyObject *given)
{
    const char letter = kernel->letters[k];
    const Items *const items = &items_of[(unsigned char)letter];
    Py_buffer *const buffer = &held->buffers[held->count];
    if (PyObject_GetBuffer(given, buffer, items->flags) < 0) {
        PyErr_Clear();
        PyErr_Format(PyExc_TypeError, "%s: %s, of %R, is no%s%s array of %s", kernel->name,
                     kernel->names[k], (PyObject *)Py_TYPE(given),
                     is_view(letter) ? "" : " C-contiguous",
                     items->flags & PyBUF_WRITABLE ? " writable" : "", items->name);
        return -1;
    }
    held->count++;
    if (!is_of(buffer, items)) {
        PyErr_Format(PyExc_TypeError, "%s: %s has items of format '%s', %zd bytes; expected %s",
                     kernel->name, kernel->names[k], buffer->format ? buffer->format : "",
                     buffer->itemsize, items->name);
        return -1;
    }
    if (is_view(letter)) {
        if (take_view(kernel, k, &to->views[*views], buffer) < 0)
            return -1;
        to->at[k].integer = (*views)++;
        *size = 0;
    } else {
        to->at[k].data = buffer->buf;
        *size = buffer->len / items->size;
    }
    return 0;
}

/* Takes and checks one argument; returns -1 with an error set. */
static int take(const Kernel *kernel, int k, Arguments *to, Held *held, int64_t *views,
                int64_t *size, PyObject *given)
{
    Argument *const at = &to->at[k];
    *size = -1;
    switch (kernel->letters[k]) {
    case 'c':
    case 'i':
        at->integer = PyLong_AsLongLong(given);
        if (at->integer >= 0 || kernel->letters[k] == 'i')
            return 0;
        return PyErr_Occurred() ? -1 : refuse(kernel, k, "is negative; expected a count");
    case 's':
    case 'k':
        at->natural = PyLong_AsUnsignedLongLong(given);
        return 0;
    case 'r':
        at->real = (float)PyFloat_AsDouble(given);
        return 0;
    case 'R':
        at->precise = PyFloat_AsDouble(given);
        return 0;
    case 'g':
    case 'G':
        if (given == Py_None) {
            at->data = NULL;
            return 0;
        }
    }
    return take_buffer(kernel, k, to, held, views, size, given);
}

/* Takes and checks all arguments; returns -1 with an error set, and nothing held. */
static int take_all(const Kernel *kernel, Arguments *to, Held *held, PyObject *const *given,
                    Py_ssize_t count)
{
    int64_t views = 0, sizes[MOST_ARGUMENTS], expected = 0;
    const Py_ssize_t wanted = (Py_ssize_t)strlen(kernel->letters);
    held->count = 0;
    if (count != wanted) {
        PyErr_Format(PyExc_TypeError, "%s takes %zd arguments, got %zd", kernel->name, wanted,
                     count);
        return -1;
    }
    for (int k = 0; k < count; k++)
        if (take(kernel, k, to, held, &views, &sizes[k], given[k]) < 0) {
            give_back(held);
            return -1;
        }
    if (PyErr_Occurred()) { /* of a number, which does not tell of it otherwise */
        give_back(held);
        return -1;
    }
    const int misfit = kernel->misfit(to, sizes, &expected);
    if (misfit < 0)
        return 0;
    if (expected < 0)
        refuse(kernel, misfit, "is of a shape that does not fit the others");
    else
        PyErr_Format(PyExc_TypeError, "%s: %s has %lld elements; expected %lld", kernel->name,
                     kernel->names[misfit], (long long)sizes[misfit], (long long)expected);
    give_back(held);
    return -1;
}

/* Calls the kernel behind a capsule. */
static PyObject *call(PyObject *capsule, PyObject *const *given, Py_ssize_t count)
{
    const Kernel *const kernel = PyCapsule_GetPointer(capsule, NULL);
    Arguments arguments;
    Held held;
    if (!kernel || take_all(kernel, &arguments, &held, given, count) < 0)
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

/* Adds a kernel's function to the module; returns -1 with an error set. */
static int add(PyObject *module, Kernel *kernel)
{
    PyMethodDef *const method = calloc(1, sizeof *method); /* as long as the process lasts */
    if (!method) {
        PyErr_NoMemory();
        return -1;
    }
    *method = (PyMethodDef){kernel->name, (PyCFunction)(void (*)(void))call, METH_FASTCALL, NULL};
    PyObject *const capsule = PyCapsule_New(kernel, NULL, NULL);
    PyObject *const function = capsule ? PyCFunction_NewEx(method, capsule, NULL) : NULL;
    const int failed = !function || PyModule_AddObjectRef(module, kernel->name, function) < 0;
    Py_XDECREF(function);
    Py_XDECREF(capsule);
    return failed ? -1 : 0;
}

static PyObject *fork_expected(PyObject *self, PyObject *with_others)
{
    (void)self;
    const int others = PyObject_IsTrue(with_others);
    if (others < 0)
        return NULL;
    expect_fork(others);
    Py_RETURN_NONE;
}

/* Calls the first of a pair of functions, and where that returns NotImplemented the second. */
static PyObject *call_in_turn(PyObject *pair, PyObject *given, PyObject *named)
{
    PyObject *const result = PyObject_Call(PyTuple_GetItem(pair, 0), given, named);
    if (result != Py_NotImplemented)
        return result;
    Py_DECREF(result);
    return PyObject_Call(PyTuple_GetItem(pair, 1), given, named);
}

static PyMethodDef calls_in_turn = {
    "in_turn", (PyCFunction)(void (*)(void))call_in_turn, METH_VARARGS | METH_KEYWORDS, NULL};

static PyObject *in_turn(PyObject *self, PyObject *pair)
{
    (void)self;
    if (!PyTuple_Check(pair) || PyTuple_Size(pair) != 2) {
        PyErr_SetString(PyExc_TypeError, "in_turn takes a tuple of two functions");
        return NULL;
    }
    return PyCFunction_NewEx(&calls_in_turn, pair, NULL);
}

/* Returns whether each argument is None or a C-contiguous array of float32. */
static PyObject *fits(PyObject *self, PyObject *const *given, Py_ssize_t count)
{
    (void)self;
    int all = 1;
    for (Py_ssize_t k = 0; all && k < count; k++) {
        Py_buffer buffer;
        if (given[k] == Py_None)
            continue;
        if (PyObject_GetBuffer(given[k], &buffer, READ) < 0) {
            PyErr_Clear();
            Py_RETURN_FALSE;
        }
        all = is_of(&buffer, &items_of['f']);
        PyBuffer_Release(&buffer);
    }
    return PyBool_FromLong(all);
}

static PyMethodDef methods[] = {
    {"fits", (PyCFunction)(void (*)(void))fits, METH_FASTCALL,
     "Return whether each argument is None or a C-contiguous array of float32."},
    {"in_turn", in_turn, METH_O, "Return a function that asks the first of two, then the second."},
    {"expect_fork", fork_expected, METH_O, "Say whether Python forks now, with other threads."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_c", "The kernels in C.", -1, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__c(void)
{
    prepare_for_forks();
    PyObject *const module = PyModule_Create(&definition);
    if (!module)
        return NULL;
    for (Kernel *kernel = kernels; kernel; kernel = kernel->next)
        if (add(module, kernel) < 0) {
            Py_DECREF(module);
            return NULL;
        }
    if (program_add_type(module) < 0) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
