"""uvicorn with limits on the time, size and number of requests.

The only package that uses private names of uvicorn. Knows no image and no model.
"""
