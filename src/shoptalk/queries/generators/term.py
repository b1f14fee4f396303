"""The team's own words as queries, so that training data covers them: the word, at the passage that says most about it.

Which words those are, and why, is in `shoptalk.vocabulary`. Acronyms that stand for something in the texts are left to the kind
"acronym": where a meaning is only guessed, the passages that use the short form may be about another one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from shoptalk.errors import ShoptalkError
from shoptalk.models.finding import find_model
from shoptalk.queries.generators import Draft
from shoptalk.queries.language import is_english
from shoptalk.records import Passage
from shoptalk.settings import BUILTIN_MODEL
from shoptalk.vocabulary import Background, Term, find_terms

_MOST_TERMS = 500


def generate(passages: Sequence[Passage]) -> Iterator[Draft]:
    """Ask "What does X mean?" in English, X itself in other languages, in the order of the passages."""
    place = {passage.passage_id: index for index, passage in enumerate(passages)}
    drafts: dict[int, list[Draft]] = {}
    for term in find_terms(passages, _background(), most=_MOST_TERMS):
        if term.passages and not term.expansions:
            home = _home(term, [passages[place[name]] for name in term.passages])
            text = f"What does {term.text} mean?" if is_english(home) else term.text
            drafts.setdefault(place[home.passage_id], []).append(Draft(text, (home.passage_id,), "term"))
    for index in sorted(drafts):
        yield from drafts[index]


def _background() -> Background | None:
    """General frequencies from the builtin model's tokenizer, where it is installed; terms can be found without."""
    try:
        return Background.of(find_model(BUILTIN_MODEL).path / "tokenizer.json")
    except ShoptalkError:
        return None


def _home(term: Term, users: Sequence[Passage]) -> Passage:
    """The passage under a heading with the term, else the one that uses it most."""
    wanted = term.text.casefold()
    return next((passage for passage in users if wanted in passage.title.split(" > ")[-1].casefold()), users[0])
