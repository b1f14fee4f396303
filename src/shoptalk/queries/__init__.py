"""Queries with judgements: from labels, or made from the passages when there are none."""

from shoptalk.queries.making import make_queries

__all__ = ["make_queries"]
