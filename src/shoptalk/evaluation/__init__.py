"""Should we tune (gate), which model is shipped (selection), did it work (comparison, verdict)."""

from shoptalk.evaluation.comparison import compare
from shoptalk.evaluation.gate import assess
from shoptalk.evaluation.selection import select

__all__ = ["assess", "compare", "select"]
