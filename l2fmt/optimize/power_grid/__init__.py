"""Grids whose steps grow by a factor from each value to the next: rounding to them, tuning them, sharing bits out."""
