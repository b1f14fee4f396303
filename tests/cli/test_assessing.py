from __future__ import annotations

import json
from pathlib import Path

from commandline import call, quickly

from toy import write_pairs, write_scored


def test_the_gate_is_shown_as_a_table_with_its_advice_last(tmp_path: Path, tiny_bert: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl")
    done = call("baseline", "pairs.jsonl", "--out", "run", *quickly(tiny_bert), cwd=tmp_path)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].split("  ")[0] == "system"
    assert [line.split("  ")[0] for line in lines[1:4]] == ["Base model", "BM25", "Base and BM25 fused"]
    record = json.loads((tmp_path / "run" / "baseline" / "gate.json").read_text(encoding="utf-8"))
    for line, system in zip(lines[1:4], record["systems"], strict=True):
        assert f"{system['ndcg@10']:.3f}" in line
        assert f"{system['ci95'][0]:.3f} to {system['ci95'][1]:.3f}" in line
    assert "kB" in lines[1]
    for words in (record["headroom"]["words"], record["power"]["words"], record["forecast"]["words"]):
        assert words in done.out
    assert f"gate: {record['decision']}" in lines
    assert [line for line in lines if line.startswith("  - ")] == [f"  - {reason}" for reason in record["reasons"]]
    assert lines[-1] == "written to run"


def test_the_gate_of_scored_pairs_is_shown_too(tmp_path: Path, tiny_bert: Path) -> None:
    write_scored(tmp_path / "pairs.jsonl")
    done = call("baseline", "pairs.jsonl", "--out", "run", *quickly(tiny_bert), cwd=tmp_path)
    assert done.code == 0, done.err
    assert "Spearman" in done.out.splitlines()[0]
    assert "scored pairs have no queries" in done.out
    assert "gate: " in done.out


def test_as_json_it_is_the_whole_record(tmp_path: Path, tiny_bert: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl")
    done = call("baseline", "pairs.jsonl", "--out", "run", *quickly(tiny_bert), "--json", cwd=tmp_path)
    assert done.record == json.loads((tmp_path / "run" / "baseline" / "gate.json").read_text(encoding="utf-8"))
