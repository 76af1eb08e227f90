"""Provides C kernels for operators that are slow in torch on a CPU; torch's operators are the fallback.

native.py compiles and loads the .c files, bindings.py declares their functions, tracing.py holds the conditions under
which a kernel may run, selection.py reports which kernels a run uses. The modules named like a .c file call them on
tensors.
"""
