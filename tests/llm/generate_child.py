"""What the kill test kills. This process imports everything once and forks a child for each line that it reads, so that a
kill hits the work and not the start. Run as a program; prints each child's process id.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from llm_server import passages
from shoptalk.llm.providers import connect
from shoptalk.queries.llm import generate_with_llm
from shoptalk.settings import LLMSettings


def settings_of(values: dict[str, Any]) -> LLMSettings:
    return LLMSettings(model="m-1", concurrency=4, timeout_s=20, batch_poll_s=0.05, price_in=1, price_out=4, **values)


def generate_until_done(n: int, folder: str, out: str, values: dict[str, Any]) -> None:
    made = generate_with_llm(passages(n), settings_of(values), Path(folder))
    drafts = [[draft.text, draft.passage_ids, draft.kind] for draft in made.drafts]
    Path(f"{out}.new").write_text(json.dumps({"drafts": drafts, "rejected": len(made.rejected)}))
    Path(f"{out}.new").rename(out)


def main() -> None:
    for provider in ("openai", "anthropic"):
        connect(settings_of({"provider": provider, "base_url": "http://127.0.0.1:9"}))
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                generate_until_done(**json.loads(line))
            finally:
                os._exit(0)
        print(child, flush=True)
        os.waitpid(child, 0)
        print("gone", flush=True)


if __name__ == "__main__":
    main()
