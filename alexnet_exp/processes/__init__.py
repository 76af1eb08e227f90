"""Provides what a process needs of the operating system: signals, children, memory, CPUs, its rank."""
