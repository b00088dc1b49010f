"""The embedded model of `l2fmt demo`: a small convolutional net on scikit-learn's handwritten digits."""
