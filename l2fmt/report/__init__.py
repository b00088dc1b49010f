"""Say what a file holds, whether it is sound, how two models differ, and how fast one decodes."""

from l2fmt.report.bench import BenchReport, GroupTime, bench, total
from l2fmt.report.difference import TensorDifference, diff
from l2fmt.report.inspection import Inspection, TensorRow, inspect
from l2fmt.report.plot import plot_layers
from l2fmt.report.verification import VerifyReport, verify

__all__ = [
    "BenchReport",
    "GroupTime",
    "Inspection",
    "TensorDifference",
    "TensorRow",
    "VerifyReport",
    "bench",
    "diff",
    "inspect",
    "plot_layers",
    "total",
    "verify",
]
