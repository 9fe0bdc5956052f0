"""Other servers that serve the same network, one per file, written as their documentation recommends.

A file begins with the requirements of its virtual environment (inline script metadata, PEP 723).
The Python of that environment runs it as a module, with the variables that `network.py` reads. The
server answers `POST /classify` on 127.0.0.1 as swin-serve does, or as `protocols.py` describes.
"""
