"""The Open Inference Protocol over gRPC: its server, its calls and the form of its messages. Knows no HTTP.

The only package that imports grpc and google.protobuf, which are in the extra `grpc`.
"""
