"""English words that say little by themselves. Short on purpose: rarity in the corpus does the rest, in any language."""

from __future__ import annotations

STOP_WORDS = frozenset(
    """
    a about after all also an and any are as at be been before but by can could do does for from had has have how i if in into
    is it its may more most must no not of on one only or other our out over own s should so some such than that the their them
    then there these they this those to under up use used using was we were what when where which who why will with within would
    you your
    """.split()
)
