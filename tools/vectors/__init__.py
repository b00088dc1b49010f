"""The test vectors of the specification: how each file of `spec/vectors` is made (see tools/gen_vectors.py)."""
