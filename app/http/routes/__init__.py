"""The endpoints: each turns a request into a response. Holds no logic of classification."""
