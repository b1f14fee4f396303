"""Check this data set and exit 1 on the first violation: python examples/pmo/check.py"""

import json
import re
from collections import Counter
from functools import cache
from itertools import combinations
from pathlib import Path

HERE = Path(__file__).resolve().parent
STORY_QUERY = "What are the requirements for LLMs?"
AI_STORY = [f"story/ai-{name}.md" for name in ("data", "deployment", "hardware")]
MEETING_STORY = [f"story/meeting-{name}.md" for name in ("minutes", "participants", "preparation")]
TRIPLET = ("anchor", "positive", "negative")
LLM = re.compile(r"\bLLMs?\b")
Section = tuple[str, str]  # the file below docs/ and the paragraph
Row = dict[str, str]


def require(condition: bool, message: str) -> None:
    if not condition:
        raise SystemExit(f"check.py: {message}")


@cache
def shingles(text: str, size: int) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)}


def overlap(one: str, other: str, size: int) -> float:
    """Return the Jaccard similarity of the word n-grams of two texts."""
    a, b = shingles(one, size), shingles(other, size)
    return len(a & b) / max(1, len(a | b))


def read_rows(name: str, *keys: str) -> list[Row]:
    rows = [json.loads(line) for line in (HERE / name).read_text(encoding="utf-8").splitlines()]
    require(all(tuple(row) == keys and all(row.values()) for row in rows), f"{name}: the keys must be {keys}")
    return rows


def read_sections() -> list[Section]:
    sections: list[Section] = []
    for path in sorted((HERE / "docs").rglob("*.md")):
        name = path.relative_to(HERE / "docs").as_posix()
        title, *blocks = re.split(r"^## .+\n\n", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        require(re.fullmatch(r"# .+\n\n", title) is not None, f"{name}: needs exactly one title line")
        sections += [(name, block.strip()) for block in blocks]
    count = Counter(name.split("/")[0] for name, _ in sections)
    require(count["project-office"] >= 131 and 45 <= count["it-news"] <= 60, f"docs: sections: {dict(count)}")
    story = [name for name, _ in sections if name.startswith("story/")]
    require(story == AI_STORY + MEETING_STORY, "docs/story needs its six files, one section each")
    for name, text in sections:
        require("\n" not in text, f"{name}: more than one paragraph: {text[:50]!r}")
        require(40 <= len(text.split()) <= 130, f"{name}: not 40 to 130 words: {text[:50]!r}")
    for (name, one), (_, other) in combinations(sections, 2):
        require(overlap(one, other, 5) < 0.5, f"{name}: near-duplicates: {one[:50]!r}, {other[:50]!r}")
    return sections


def check_test(test: list[Row], sections: list[Section]) -> set[str]:
    """Check the test questions and return the paragraphs that answer them."""
    answers: list[str] = []
    for row in test:
        query, quote = row["query"], row["positive"]
        require(LLM.search(query) is not None, f"test.jsonl: no LLM in {query!r}")
        require(len(quote.split()) >= 8, f"test.jsonl: a quote under 8 words for {query!r}")
        found = {text: name for name, text in sections if quote in text}
        require([*found.values()] == [row["document"]], f"test.jsonl: {query!r}: not one section")
        answers += found
    require(len(set(answers)) == len(test), "test.jsonl: two rows share a section")
    story = sorted(row["document"] for row in test if row["query"] == STORY_QUERY)
    require(story == MEETING_STORY, "test.jsonl: the story query needs one row per meeting document")
    rest = {row["query"] for row in test if row["document"].startswith("project-office/")}
    require(len(rest) == len(test) - 3 >= 66, "test.jsonl: under 66 different project-office questions")
    languages = Counter(row["language"] for row in test)
    require(set(languages) == {"en", "pl", "de", "es"}, "test.jsonl: the languages must be en, pl, de and es")
    require(3 * (len(test) - languages["en"]) >= len(test), "test.jsonl: under one third in pl, de and es")
    return set(answers)


def check_triplets(name: str, rows: list[Row], folders: list[str], sections: list[Section]) -> None:
    """Check triplets whose positives come, 65 each, from the folders."""
    for key in ("anchor", "negative"):
        require(len({row[key].lower() for row in rows}) == len(rows), f"{name}: a repeated {key}")
    sources = {text: source.split("/")[0] for source, text in sections}
    count = Counter(sources.get(row["positive"], "no section at all") for row in rows)
    require(count == dict.fromkeys(folders, 65), f"{name}: positives come from {dict(count)}")
    for text, times in Counter(row["positive"] for row in rows).items():
        require(times <= 1 + (sources[text] == "it-news"), f"{name}: used too often: {text[:50]!r}")
    for row in rows:
        for text in sources:
            require(overlap(row["negative"], text, 5) < 0.5, f"{name}: in docs: {row['negative'][:50]!r}")
        office = sources[row["positive"]] == "project-office"
        require(not office or bool(LLM.search(row["anchor"])), f"{name}: no LLM in {row['anchor']!r}")


def main() -> None:
    sections = read_sections()
    train, balanced = (read_rows(f"{n}.jsonl", *TRIPLET) for n in ("train", "balanced"))
    test = read_rows("test.jsonl", "query", "positive", "document", "language")
    secrets = check_test(test, sections) | {row[key] for row in test for key in ("query", "positive")}
    check_triplets("train.jsonl", train, ["project-office"], sections)
    check_triplets("balanced.jsonl", balanced, ["project-office", "it-news"], sections)
    require(all(row in balanced for row in train), "balanced.jsonl: a row of train.jsonl is missing")
    for text in {text for row in balanced for text in row.values()}:
        require(not any(s.lower() in text.lower() for s in secrets), f"test text in training: {text[:50]!r}")
    controls = [row["query"] for row in read_rows("controls.jsonl", "query")]
    require(len(controls) == len(set(controls)) == 40, "controls.jsonl needs 40 different queries")
    require(controls[0] == "What is a CPU?", "controls.jsonl must begin with the CPU query")
    for query in controls:
        close = LLM.search(query) or any(overlap(query, row["anchor"], 1) >= 0.6 for row in balanced)
        require(not close, f"controls.jsonl: {query!r} is too close to a training anchor")
    print(f"{len(sections)} sections, {len(train)}/{len(balanced)} triplets, {len(test)} test rows: all well")


if __name__ == "__main__":
    main()
