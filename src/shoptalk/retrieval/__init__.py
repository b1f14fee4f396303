"""Exact top-k in blocks, BM25, metrics, significance."""
