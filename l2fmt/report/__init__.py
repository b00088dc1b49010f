"""Say what a file holds, whether it is sound, and how two models differ."""

from l2fmt.report.difference import TensorDifference, diff
from l2fmt.report.inspection import Inspection, TensorRow, inspect
from l2fmt.report.plot import plot_layers
from l2fmt.report.verification import VerifyReport, verify

__all__ = ["Inspection", "TensorDifference", "TensorRow", "VerifyReport", "diff", "inspect", "plot_layers", "verify"]
