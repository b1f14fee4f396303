"""A team's own words, by pure text statistics: acronyms with their expansions, and terms of art."""

from shoptalk.vocabulary.acronyms import Expansion, definitions, is_acronym
from shoptalk.vocabulary.background import Background
from shoptalk.vocabulary.terms import Term, find_terms

__all__ = ["Background", "Expansion", "Term", "definitions", "find_terms", "is_acronym"]
