"""The report: report.html for people, result.json for programs."""

from shoptalk.report.building import build_report

__all__ = ["build_report"]
