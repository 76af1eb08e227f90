"""Provides C kernels for operators that are slow in torch on a CPU, with torch's operators as the other candidates.

native.py compiles and loads the .c files, bindings.py declares their functions, tracing.py holds the conditions under
which a kernel may run. choice.py names the candidate of each operator, calibration.py measures which one is fastest.
The modules named like a .c file call it on tensors, convolution.py also windows.c, images.py also resize.c;
lrn_triton.py has the kernels for a GPU, derivatives.py what all backward passes share.
"""
