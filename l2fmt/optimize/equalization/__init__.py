"""A model's weights made easier to round, and its biases corrected, by what its graph says: the parts of `dfq`."""
