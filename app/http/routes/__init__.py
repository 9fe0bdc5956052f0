"""The endpoints: a request in, a response out. They hold no logic of their own."""
