"""HTTP workers in processes of their own in front of one engine process.

Supervision, messages and shared memory. Knows no image formats.
"""
