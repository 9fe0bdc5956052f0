"""What the source libraries themselves computed, for tests on machines where they cannot be imported.

`make.py` made the files, in an environment with those libraries; each file names their versions. Weights are not kept:
`draw.py` makes them again from their names and shapes.
"""
