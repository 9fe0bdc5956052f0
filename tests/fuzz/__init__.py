"""Fuzzing of image decoding with damaged images."""
