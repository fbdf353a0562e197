/* Programs: calls of kernels that were recorded, and are repeated without the interpreter.
 *
 * While a thread records, each kernel that it calls also becomes a part of its program, with the
 * addresses and numbers that it was given. The program keeps the arrays behind these addresses
 * alive, but for memory that it borrows.
 *
 * From one run to the next change the seed of dropout masks, the number of the call that draws the
 * first, and whatever is written into the arrays meanwhile. A mask of another seed than the
 * recording's makes `other_seed` true: such a program is not to be run. Results of kernels that
 * tell something about the data, such as whether all indices lie within a table, have to be those
 * of the recording. */
#include "program.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <structmember.h>

#define BUFFERS "fFgGtTdD" /* the letters of arguments that are addresses */

typedef struct {
    const Kernel *kernel;
    int64_t expected;
    Py_ssize_t mask; /* which argument is the number of a dropout call, after the seed; or 0 */
    Arguments arguments; /* that number less the first one of the run */
} Call;

typedef struct {
    char *start;
    Py_ssize_t size;
} Range;

typedef struct {
    PyObject_HEAD
    Call *calls;
    Range *borrowed;
    Py_ssize_t count, room, borrowed_count, borrowed_room;
    PyObject *kept; /* the arrays behind the addresses */
    uint64_t seed, first; /* of the recording */
    char other_seed;
} Program;

static _Thread_local Program *recording;

/* Makes room for one more of `count` items; returns the items, NULL with an error set. */
static void *grown(void *items, Py_ssize_t count, Py_ssize_t *room, size_t size)
{
    if (count < *room)
        return items;
    const Py_ssize_t wanted = *room ? 2 * *room : 16;
    void *const more = realloc(items, (size_t)wanted * size);
    if (!more) {
        PyErr_NoMemory();
        return NULL;
    }
    *room = wanted;
    return more;
}

static int is_borrowed(const Program *program, const void *data)
{
    for (Py_ssize_t i = 0; i < program->borrowed_count; i++) {
        const Range *const range = &program->borrowed[i];
        if ((const char *)data >= range->start && (const char *)data < range->start + range->size)
            return 1;
    }
    return 0;
}

Py_ssize_t program_record(const Kernel *kernel, const Arguments *arguments,
                          PyObject *const *objects)
{
    Program *const program = recording;
    if (!program)
        return -1;
    Call *const calls = grown(program->calls, program->count, &program->room, sizeof(Call));
    if (!calls)
        return -2;
    program->calls = calls;
    Call *const call = &calls[program->count];
    *call = (Call){kernel, 0, 0, *arguments};
    for (size_t k = 0; kernel->letters[k]; k++) {
        const char letter = kernel->letters[k];
        if (letter == 's' && arguments->at[k].natural != program->seed &&
            arguments->at[k].natural != 0)
            program->other_seed = 1;
        if (letter == 'k') {
            call->mask = (Py_ssize_t)k;
            call->arguments.at[k].natural -= program->first;
        }
        if (!strchr(BUFFERS "vV", letter) || objects[k] == Py_None)
            continue;
        const void *data = letter == 'v' || letter == 'V'
                               ? arguments->views[arguments->at[k].integer].data
                               : arguments->at[k].data;
        if (!is_borrowed(program, data) && PyList_Append(program->kept, objects[k]) < 0)
            return -2;
    }
    return program->count++;
}

void program_expect(Py_ssize_t call, int64_t result) { recording->calls[call].expected = result; }

/* Returns whether every call returned what it did when it was recorded; ends where one did not. */
static int run(Program *program, uint64_t seed, uint64_t first)
{
    for (Py_ssize_t i = 0; i < program->count; i++) {
        const Call *const call = &program->calls[i];
        int64_t result;
        if (call->mask) {
            Arguments arguments = call->arguments;
            arguments.at[call->mask - 1].natural = seed;
            arguments.at[call->mask].natural += first;
            result = call->kernel->run(&arguments);
        } else {
            result = call->kernel->run(&call->arguments);
        }
        if (result != call->expected)
            return 0;
    }
    return 1;
}

static PyObject *begin(Program *self, PyObject *given)
{
    unsigned long long seed, first;
    if (!PyArg_ParseTuple(given, "KK:begin", &seed, &first))
        return NULL;
    if (recording || self->count) {
        PyErr_SetString(PyExc_RuntimeError, self->count ? "this program was recorded already"
                                                        : "this thread records another program");
        return NULL;
    }
    self->seed = seed;
    self->first = first;
    Py_INCREF((PyObject *)self);
    recording = self;
    Py_RETURN_NONE;
}

static PyObject *end(Program *self, PyObject *unused)
{
    (void)unused;
    if (recording != self) {
        PyErr_SetString(PyExc_RuntimeError, "this thread does not record this program");
        return NULL;
    }
    recording = NULL;
    Py_DECREF((PyObject *)self);
    Py_RETURN_NONE;
}

static PyObject *borrow(Program *self, PyObject *buffer)
{
    Py_buffer view;
    Range *const borrowed =
        grown(self->borrowed, self->borrowed_count, &self->borrowed_room, sizeof(Range));
    if (!borrowed)
        return NULL;
    self->borrowed = borrowed;
    if (PyObject_GetBuffer(buffer, &view, PyBUF_C_CONTIGUOUS) < 0)
        return NULL;
    borrowed[self->borrowed_count++] = (Range){view.buf, view.len};
    PyBuffer_Release(&view);
    Py_RETURN_NONE;
}

/* Moves a pointer that lies in a range by the distance to another one. */
static void move_pointer(void *pointer, const Range *from, char *to)
{
    char **const at = pointer;
    if (*at >= from->start && *at < from->start + from->size)
        *at += to - from->start;
}

static PyObject *move(Program *self, PyObject *given)
{
    Py_ssize_t first;
    unsigned long long from, to;
    Range range;
    if (!PyArg_ParseTuple(given, "nKKn:move", &first, &from, &to, &range.size))
        return NULL;
    range.start = (char *)(uintptr_t)from;
    char *const target = (char *)(uintptr_t)to;
    for (Py_ssize_t i = first < 0 ? 0 : first; i < self->count; i++) {
        Call *const call = &self->calls[i];
        for (size_t k = 0; call->kernel->letters[k]; k++) {
            Argument *const at = &call->arguments.at[k];
            if (strchr("vV", call->kernel->letters[k]))
                move_pointer(&call->arguments.views[at->integer].data, &range, target);
            else if (strchr(BUFFERS, call->kernel->letters[k]))
                move_pointer(&at->data, &range, target);
        }
    }
    Py_RETURN_NONE;
}

static PyObject *repeat(Program *self, PyObject *given)
{
    unsigned long long seed, first;
    if (!PyArg_ParseTuple(given, "KK:run", &seed, &first))
        return NULL;
    int same;
    Py_BEGIN_ALLOW_THREADS same = run(self, seed, first);
    Py_END_ALLOW_THREADS return PyBool_FromLong(same);
}

static Py_ssize_t length(Program *self) { return self->count; }

static PyObject *create(PyTypeObject *type, PyObject *given, PyObject *named)
{
    (void)given, (void)named;
    Program *self = (Program *)PyType_GenericAlloc(type, 0);
    if (self && !(self->kept = PyList_New(0)))
        Py_CLEAR(self);
    return (PyObject *)self;
}

static int visit_kept(Program *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE((PyObject *)self));
    Py_VISIT(self->kept);
    return 0;
}

static int clear_kept(Program *self)
{
    Py_CLEAR(self->kept);
    return 0;
}

static void destroy(Program *self)
{
    PyTypeObject *const type = Py_TYPE((PyObject *)self);
    PyObject_GC_UnTrack((PyObject *)self);
    free(self->calls);
    free(self->borrowed);
    clear_kept(self);
    PyObject_GC_Del(self);
    Py_DECREF((PyObject *)type);
}

static PyMethodDef methods[] = {
    {"begin", (PyCFunction)begin, METH_VARARGS, "Record what this thread calls from now on."},
    {"end", (PyCFunction)end, METH_NOARGS, "Record no more."},
    {"borrow", (PyCFunction)borrow, METH_O, "Take a buffer whose memory somebody else keeps."},
    {"move", (PyCFunction)move, METH_VARARGS,
     "Have calls, from one on, use another address for so many bytes from one on."},
    {"run", (PyCFunction)repeat, METH_VARARGS, "Repeat the calls; return whether all went as then."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef members[] = {
    {"kept", T_OBJECT_EX, offsetof(Program, kept), READONLY,
     "The arrays that calls were given and that do not lie in borrowed memory."},
    {"other_seed", T_BOOL, offsetof(Program, other_seed), READONLY,
     "Whether a call drew a mask of another seed than the recording's."},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "Calls of kernels that were recorded, to be repeated."},
    {Py_tp_new, create},
    {Py_tp_dealloc, destroy},
    {Py_tp_traverse, visit_kept},
    {Py_tp_clear, clear_kept},
    {Py_tp_methods, methods},
    {Py_tp_members, members},
    {Py_sq_length, length},
    {0, NULL},
};

static PyType_Spec specification = {
    .name = "tinygrad_char.kernels.cpu._c.Program",
    .basicsize = sizeof(Program),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = slots,
};

int program_add_type(PyObject *module)
{
    PyObject *const type = PyType_FromModuleAndSpec(module, &specification, NULL);
    const int added = type ? PyModule_AddObjectRef(module, "Program", type) : -1;
    Py_XDECREF(type);
    return added;
}
