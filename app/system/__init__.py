"""The machine: CPUs, memory, devices, open files, the end of a process.

Imports no other package of the service.
"""
