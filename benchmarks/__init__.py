"""What the service costs and holds out, measured from outside, over real sockets. Not part of the package."""
