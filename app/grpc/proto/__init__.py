"""The messages of gRPC: their definition in `inference.proto`, and the files that `make proto` compiles from it."""
