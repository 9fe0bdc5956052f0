"""Scripts that run a client of another project. Each reads calls as JSON, and prints their outcomes as JSON.

They import nothing of this project beside this package, because their interpreter does not have its requirements.
"""
