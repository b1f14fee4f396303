"""Numbers and verdicts in words that need no statistics to read."""

from __future__ import annotations

import re
from dataclasses import dataclass

from shoptalk.report.artifacts import Artifacts
from shoptalk.retrieval.metrics import SHOWN

VERDICTS = {"ship": "Ship", "do-not-ship": "Do not ship", "inconclusive": "Inconclusive"}
DECISIONS = {
    "tune": "Tune",
    "tune-with-caution": "Tune, with caution",
    "collect-more-data": "Collect more data first",
    "use-something-simpler": "Use something simpler",
    "not-needed": "Tuning is not needed",
}
_ORIGINS = {
    "human": "asked by people",
    "llm": "written by a language model",
    "offline": "made from the documents by rules",
}
MEANINGS = {
    "ndcg@10": "nDCG@10 runs from 0 to 1: the higher the right passages stand in the first ten, the nearer to 1.",
    "spearman": "Spearman is 1 when the model orders all pairs as people do, and 0 when the order is chance.",
}
MINUS = "\N{MINUS SIGN}"
_HYPHEN_MINUS = re.compile(r"(?<![\w.])-(?=\d)")


def signed(value: float, digits: int = 3) -> str:
    """+0.200, −0.013, 0.000: with a real minus sign."""
    shown = f"{value:+.{digits}f}"
    return shown[1:] if float(shown) == 0 else shown.replace("-", MINUS)


def plain(value: float, digits: int = 3) -> str:
    """0.401, or −0.020 with a real minus sign."""
    shown = f"{value:.{digits}f}"
    return shown.lstrip("-") if float(shown) == 0 else shown.replace("-", MINUS)


def p_value(value: float | None) -> str:
    """A p-value to three digits; an em dash where there is none."""
    if value is None:
        return "\N{EM DASH}"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def count(n: int, noun: str, plural: str = "") -> str:
    """1 query, 1,204 queries."""
    if n == 1:
        return f"1 {noun}"
    return f"{n:,} {plural or (f'{noun[:-1]}ies' if noun.endswith('y') else f'{noun}s')}"


def shown(metric: str) -> str:
    """A metric's name as the field writes it: nDCG@10 for ndcg@10."""
    return SHOWN.get(metric, metric)


def duration(seconds: float) -> str:
    """0.4 s, 12 s, 3 min 07 s, 2 h 05 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60:02d} min"


def size(n_bytes: float) -> str:
    """1.5 kB, 23.1 MB: powers of ten, as disks are sold."""
    for unit, one in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= one:
            return f"{n_bytes / one:.1f} {unit}"
    return f"{n_bytes:,.0f} B"


def speed(seconds: float) -> str:
    """Seconds for 1,000 passages: 12.3, or < 0.1."""
    return f"{seconds:,.1f}" if seconds >= 0.05 else "< 0.1"


def excerpt(text: str, most: int) -> str:
    """The beginning of a text on one line, at most `most` characters, cut between words where there are any."""
    flat = " ".join(text.split())
    if len(flat) <= most:
        return flat
    cut = flat[: most - 1]
    return f"{cut.rsplit(' ', 1)[0] if ' ' in cut[most // 2 :] else cut}\N{HORIZONTAL ELLIPSIS}"


def sentence(text: str) -> str:
    """A fragment as a sentence: first letter large (unless the word has its own capitals, as nDCG), real minus signs, a full stop."""
    text = _HYPHEN_MINUS.sub(MINUS, text)
    first = text.split(" ", 1)[0]
    if first[1:] == first[1:].lower():
        text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else f"{text}."


@dataclass(frozen=True)
class Answer:
    """The first screen: what was found, why, and what to do."""

    verdict: str
    word: str
    headline: str
    reasons: tuple[str, ...]
    steps: tuple[str, ...]


def answer(run: Artifacts) -> Answer:
    """The verdict of a run in plain words."""
    verdict = str(run.comparison["verdict"])
    reasons = [sentence(reason) for reason in run.comparison["reasons"]]
    return Answer(verdict, VERDICTS[verdict], _headline(run), (*reasons, *_cautions(run)), tuple(_steps(run)[:4]))


def _headline(run: Artifacts) -> str:
    verdict, (low, high) = run.comparison["verdict"], run.delta["ci95"]
    if run.is_similarity:
        better, worse = "orders sentence pairs clearly more like people do", "orders sentence pairs less like people do"
    else:
        better, worse = "ranks the right passages clearly higher", "ranks the right passages lower"
    if verdict == "ship":
        return f"Use the tuned model: it {better} than the base model."
    if verdict == "do-not-ship":
        return f"Keep the base model: the tuned one {worse}." if high < 0 else "Keep the base model: a rule was broken."
    if run.audit["test_origin"] == "offline":
        return "These test queries were made from the documents, so they cannot decide whether to ship."
    if low > 0 or high < 0:
        return "There is a difference, but not enough to decide on."
    return "The test cannot tell the tuned model from the base model."


def _cautions(run: Artifacts) -> list[str]:
    found = []
    serious = [spoken(finding["name"]) for finding in run.findings if finding["severity"] == "high"]
    if serious:
        found.append(
            f"{sentence('serious ' + ('findings' if len(serious) > 1 else 'finding'))[:-1]}: {', '.join(serious)}."
        )
    if run.evaluations > 1:
        found.append(
            f"This test split has been evaluated {run.evaluations} times in this run folder: every look that leads to a "
            "choice makes it a little less independent."
        )
    return found


def _steps(run: Artifacts) -> list[str]:
    verdict = run.comparison["verdict"]
    steps = {"ship": _steps_ship, "do-not-ship": _steps_keep, "inconclusive": _steps_more}[verdict](run)
    bm25, tuned = (run.comparison.get(name, {}).get(run.metric) for name in ("bm25", "tuned"))
    if bm25 is not None and tuned is not None and bm25 > tuned:
        steps.append(
            "Combine vectors with keyword search: BM25 alone scores higher than the tuned model on these queries."
        )
    pairs, wanted = run.audit["training_pairs"], run.settings.baseline
    if verdict != "do-not-ship" and pairs < wanted.sensible_pairs:
        steps.append(
            f"Add labelled pairs for the next round: {pairs:,} now; {wanted.sensible_pairs:,} is sensible, "
            f"{wanted.reliable_pairs:,} reliable."
        )
    return steps


def _steps_ship(run: Artifacts) -> list[str]:
    steps = ["Switch to the folder model/ beside this report. SentenceTransformer loads it as it is."]
    if any(finding["severity"] == "high" for finding in run.findings):
        steps.insert(0, "Look at the serious finding below before you switch.")
    if not run.is_similarity:
        steps.append("Encode all passages again before you switch: vectors of two models cannot be mixed.")
    if run.lost:
        steps.append(
            f"Read the {item(run, len(run.lost))} that got worse, below, and decide if you can live with that."
        )
    return steps


def _steps_keep(run: Artifacts) -> list[str]:
    steps = ["Leave your retrieval system as it is."]
    if run.findings:
        steps.append(
            f"Start with the findings below: {', '.join(spoken(finding['name']) for finding in run.findings)}."
        )
    return [
        *steps,
        f"Read the {item(run, len(run.lost))} that got worse, below: wrong or contradictory labels often show there.",
        "Then clean or add labelled pairs and run again; it is almost always the data.",
    ]


def _steps_more(run: Artifacts) -> list[str]:
    n, wanted = run.comparison["queries"], run.settings.evaluate
    low = run.delta["ci95"][0]
    steps = ["Keep the base model for now."]
    if run.audit["test_origin"] == "offline":
        return [
            *steps,
            f"Collect {wanted.min_test} or more questions that people really asked, each with the passage that answers it.",
            "Run again with them as the test queries (input.test_queries).",
        ]
    if n < wanted.min_test:
        return [
            *steps,
            f"Label {wanted.min_test - n} more test queries or more: there are {n}, and a verdict needs {wanted.min_test}.",
        ]
    if low > 0:
        return [*steps, f"A gain under {wanted.min_gain:g} seldom pays for encoding every passage again."]
    needed = queries_needed(run)
    if needed:
        steps.append(
            f"Label more test queries: if the gain is really {signed(run.delta['value'])}, about {needed:,} would show it."
        )
    return steps


def queries_needed(run: Artifacts) -> int:
    """Test queries at which a gain of this size would be seen four times in five; 0 where no sensible number would.

    The interval's half-width shrinks with the square root of n; 80% power at 5% needs it at 0.7 of the gain (1.96 / 2.80).
    """
    value, (low, high) = run.delta["value"], run.delta["ci95"]
    if value < run.settings.evaluate.min_gain or low > 0:
        return 0
    exact = run.comparison["queries"] * ((high - low) / 2 / (0.7 * value)) ** 2
    digits = 10 ** max(0, len(str(int(exact))) - 2)
    return int(-(-exact // digits) * digits) if exact <= 20_000 else 0


def origin(run: Artifacts) -> str:
    """Where the test queries, or the scores of the test pairs, come from."""
    return "scored by people" if run.is_similarity else _ORIGINS[run.audit["test_origin"]]


def spoken(name: str) -> str:
    """A finding's name in words: worse-than-base as worse than base."""
    return name.replace("-", " ")


def sides(text: str) -> list[str]:
    """The two sentences of a scored pair, which stand in one text; that text where it cannot be told where one ends."""
    parts = text.split("  |  ")
    return parts if len(parts) == 2 else [text]


def item(run: Artifacts, n: int, kind: str = "") -> str:
    """Like `count`: 3 queries, or 3 pairs where pairs are scored. kind: a word before the noun, with its space."""
    one, many = ("pair", "pairs") if run.is_similarity else ("query", "queries")
    return count(n, f"{kind}{one}", f"{kind}{many}")


def learning_words(run: Artifacts) -> tuple[str, str]:
    """What the two learning curves show: training loss, dev score."""
    losses = [row["loss"] for row in run.log if "loss" in row]
    training, name = run.training, SHOWN[run.training["metric"]]
    loss = f"Training loss from {losses[0]:.2f} to {losses[-1]:.2f}." if losses else "No training loss was logged."
    done, planned = training["steps_done"], training["steps"]
    # The log has about 50 rows, so the last steps of a complete run may be missing in it.
    early = " It stopped early, as the dev score had clearly fallen." if planned - done >= max(1, planned // 50) else ""
    return (
        f"{loss} {count(done, 'step')} of {planned:,} were done.{early}",
        f"{name} on the dev queries: {plain(training['base_dev'])} with the base model, {plain(training['best_dev'])} {_kept(run)}",
    )


def _kept(run: Artifacts) -> str:
    """Which checkpoint is kept, and why it and not another: the last one, or the highest where that is clearly ahead."""
    training = run.training
    step, score = training["best_step"], training["best_dev"]
    highest = training.get("highest_dev")
    if highest is None:  # an adapter, which keeps its highest epoch and has no other rule
        return f"at the checkpoint that is kept (step {step:,}), the highest."
    if plain(highest) != plain(score):
        return (
            f"at the last checkpoint (step {step:,}), which is the one kept. The highest, {plain(highest)}, is ahead of it by no "
            "more than two standard errors, which may be chance, and the last has learned most."
        )
    if any("dev" in row and row["step"] > step for row in run.log):
        return (
            f"at the highest checkpoint (step {step:,}), which is the one kept: it is ahead of the last by more than two "
            "standard errors."
        )
    return f"at the last checkpoint (step {step:,}), which is the one kept; none is clearly higher."
