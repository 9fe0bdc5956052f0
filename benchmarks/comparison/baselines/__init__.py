"""Other servers doing the same job, each in a file of its own, as its documentation would have it.

A file begins with what its virtual environment needs (inline script metadata, PEP 723). It is run as a module by the
Python of that environment, with the variables that `network.py` reads, and answers `POST /classify` on 127.0.0.1 as
swin-serve does, unless its own protocol says otherwise.
"""
