/* Programs: calls of kernels that were recorded, and are repeated without the interpreter. */
#ifndef TINYGRAD_CHAR_PROGRAM_H
#define TINYGRAD_CHAR_PROGRAM_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "kernel.h"

/* Adds a call to the program that this thread records, if it records one. `objects` are those that
 * the arguments were read from. Returns the call's number, -1 where nothing is recorded, and -2
 * with an error set. */
Py_ssize_t program_record(const Kernel *kernel, const Arguments *arguments,
                          PyObject *const *objects);
/* Notes what a recorded call has returned. */
void program_expect(Py_ssize_t call, int64_t result);
/* Adds the type Program to a module; -1 with an error set. */
int program_add_type(PyObject *module);

#endif
