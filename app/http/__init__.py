"""HTTP requests and responses: the application, its routes and its middleware.

Knows no engine and no socket.
"""
