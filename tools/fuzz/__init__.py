"""Fuzzing: inputs that nearly fit, and what must hold for every one of them (SECURITY.md)."""
