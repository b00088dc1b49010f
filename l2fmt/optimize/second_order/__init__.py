"""Quantization by second-order information: the curvature of each layer from calibration data, and rounding with it."""
