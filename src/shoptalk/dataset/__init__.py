"""From passages and queries to a checked dataset, split so that nothing leaks."""

from shoptalk.dataset.building import build_dataset

__all__ = ["build_dataset"]
