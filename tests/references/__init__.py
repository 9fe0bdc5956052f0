"""Reference outputs of timm and torchvision, for tests on machines without these libraries.

`make.py` writes the files in an environment with the libraries. Each file contains their versions. The weights are not
stored: `draw.py` draws them again from their names and shapes.
"""
