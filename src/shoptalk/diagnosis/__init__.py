"""Findings: what a person should know about a run. One file a finding, each with `find(evidence) -> Finding | None`."""

from shoptalk.diagnosis.diagnosing import diagnose

__all__ = ["diagnose"]
