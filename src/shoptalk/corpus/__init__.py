"""From a source to passages: readers, chunking, ingest."""

from shoptalk.corpus.ingest import ingest

__all__ = ["ingest"]
