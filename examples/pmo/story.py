"""The story in numbers: what the base model and the tuned model of a run make of "LLM".

python examples/pmo/story.py runs/pmo
"""

import json
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

from shoptalk.models.encoder import load_encoder
from shoptalk.settings import read_settings

HERE = Path(__file__).parent
QUESTION = "What are the requirements for LLMs?"


def main(run: Path) -> None:
    settings = read_settings(run / "shoptalk.yaml")
    passages = [
        json.loads(line) for line in (run / "passages" / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    story = [p for p in passages if p["_id"].startswith("story/")]
    names = [Path(p["_id"].split("#")[0]).stem for p in story]
    print(f'\n"{QUESTION}" against three AI and three meeting documents\n')
    encoders = [load_encoder(name, settings.model) for name in (settings.model.base, str(run / "model"))]
    columns = []
    for encoder in encoders:
        cosines = (
            encoder.encode_queries([QUESTION]) @ encoder.encode_passages([f"{p['title']} {p['text']}" for p in story]).T
        )[0]
        columns.append(sorted(zip(cosines, names, strict=True), reverse=True))
    print(f"  {'':3}{'before':<32}after")
    for rank, ((score, name), (new_score, new_name)) in enumerate(zip(*columns, strict=True), 1):
        print(f"  {rank}  {score:.3f} {name:<26}{new_score:.3f} {new_name}")

    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for line in (run / "evaluation" / "per_query.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        found[row["language"]].append((row["base"]["ndcg@10"], row["tuned"]["ndcg@10"]))
    print("\nnDCG@10 by the language of the question (all passages are English)\n")
    for language, values in sorted(found.items(), key=lambda entry: -len(entry[1])):
        before, after = (sum(column) / len(values) for column in zip(*values, strict=True))
        print(f"  {language:<4}{len(values):>3} questions   {before:.3f} -> {after:.3f}")

    controls = [
        json.loads(line)["query"] for line in (HERE / "controls.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    office = [f"{p['title']} {p['text']}" for p in passages if p["_id"].startswith("project-office/")]
    cosines = []
    for encoder in encoders:
        centre = encoder.encode_passages(office).mean(axis=0)
        cosines.append(encoder.encode_queries(controls) @ (centre / np.linalg.norm(centre)))
    print(
        f'\n{len(controls)} control questions such as "{controls[0]}": mean cosine to project-office text '
        f"{cosines[0].mean():+.3f} -> {cosines[1].mean():+.3f}; {np.mean(cosines[1] > cosines[0]):.0%} moved nearer"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/pmo"))
