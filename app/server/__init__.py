"""uvicorn, with bounds on time, size and number.

The only package that uses the private names of uvicorn. Knows no image and no model.
"""
