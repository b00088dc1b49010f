"""Layers rounded so that their outputs stay near: what goes into each, and rounding learned from it."""
