"""Methods that choose the symbols of a file: weights in, codes out; they never write bytes. One method a file."""

from l2fmt.optimize.base import Budget, Calibration, Compressed, Method, Task, WeightTensor, get_method, method_names

__all__ = ["Budget", "Calibration", "Compressed", "Method", "Task", "WeightTensor", "get_method", "method_names"]
