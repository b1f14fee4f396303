"""A language model on this machine, through transformers: any causal model, or a sequence-to-sequence one of the doc2query kind.

Safetensors only, never a model's own code. A causal model is asked as a provider is, in its chat template when it has one; a
sequence-to-sequence model is given the passage and gives plain texts, each a query (Nogueira and Lin 2019, docTTTTTquery).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

from shoptalk.errors import ModelError
from shoptalk.llm.journal import Journal, Usage
from shoptalk.llm.messages import Reply, Request
from shoptalk.models.finding import find_model
from shoptalk.models.loading import quiet_libraries
from shoptalk.progress import task
from shoptalk.queries.llm.jobs import DOC2QUERY, Job
from shoptalk.settings import LLMSettings

_QUERY_TOKENS = 64  # doc2query models write one short line
_UNBOUNDED = 1_000_000  # what tokenizers say when a model has no maximum


class LocalModel:
    """A model and its tokenizer, loaded. `bare`: it knows no instructions; `identity`: the digest of its files."""

    def __init__(self, settings: LLMSettings) -> None:
        """Raises ModelError when there is no such model, or it cannot be loaded safely."""
        found = find_model(settings.model)
        self.identity = found.sha256
        self._name = found.name
        self._settings = settings
        with quiet_libraries():
            import torch
            from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

            safe = {"trust_remote_code": False, "local_files_only": True}
            try:
                config = AutoConfig.from_pretrained(str(found.path), **safe)
                self.bare = bool(config.is_encoder_decoder)
                kind = AutoModelForSeq2SeqLM if self.bare else AutoModelForCausalLM
                self._tokenizer: Any = AutoTokenizer.from_pretrained(str(found.path), **safe)
                self._model: Any = kind.from_pretrained(
                    str(found.path), use_safetensors=True, dtype="auto", **safe
                ).eval()
            except Exception as error:
                raise ModelError(
                    f"{found.name}: cannot be loaded as a model that writes text: {' '.join(str(error).split())[:300]}"
                ) from error
        if torch.cuda.is_available():
            self._model = self._model.to("cuda")
        self._tokenizer.padding_side = "right" if self.bare else "left"
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token or self._tokenizer.unk_token
        if self._tokenizer.pad_token is None:
            raise ModelError(
                f"{found.name}: its tokenizer has neither a padding nor an end token; set one in its folder"
            )

    def read(self, body: str) -> Reply | None:
        """What a journalled body says."""
        try:
            said = json.loads(body)
            counted = (int(said["tokens_in"]), int(said["tokens_out"]))
            return Reply(str(said["text"]), too_long=bool(said["too_long"]), counted=counted)
        except (ValueError, KeyError, TypeError):
            return None

    def answer_all(self, jobs: Sequence[Job], next_request: Callable[[Job], Request | None], journal: Journal) -> None:
        """Answer every job, a batch of prompts at a time; each batch is on disk before the next."""
        with task(f"asking {self._name}", len(jobs)) as bar:
            for start in range(0, len(jobs), self._settings.concurrency):
                group = jobs[start : start + self._settings.concurrency]
                while wanted := {r.key: r for job in group if (r := next_request(job)) is not None}:
                    for request, body in zip(wanted.values(), self._answer(list(wanted.values())), strict=True):
                        counted = self.read(body)
                        usage = Usage(*counted.counted) if counted and counted.counted else Usage()
                        journal.answer(journal.begin(request.key, Usage()), request.key, body, usage)
                bar.advance(len(group))

    def _answer(self, requests: Sequence[Request]) -> list[str]:
        """The bodies of the answers, in order. A prompt that is too long for the model is not cut, which would cut the fence."""
        prompts = [self._prompt(request) for request in requests]
        room = self._room(max(self._new_tokens(request) for request in requests))
        fits = [self.bare or len(prompt) <= room for prompt in prompts]
        asked = [prompt[:room] for prompt, fit in zip(prompts, fits, strict=True) if fit]
        seed = "".join(request.key for request in requests) + str(self._settings.seed)
        texts = iter(
            self._generate(asked, requests[0], int(hashlib.sha256(seed.encode()).hexdigest()[:8], 16)) if asked else []
        )
        bodies = []
        for request, prompt, fit in zip(requests, prompts, fits, strict=True):
            written, tokens = next(texts) if fit else ([""], 0)
            text = _as_answer(written, request) if self.bare else written[0]
            said = {"text": text, "tokens_in": len(prompt) if fit else 0, "tokens_out": tokens, "too_long": not fit}
            bodies.append(json.dumps(said, ensure_ascii=False))
        return bodies

    def _prompt(self, request: Request) -> list[int]:
        """Token ids of a request, as the model wants to be spoken to."""
        if self.bare:
            return list(self._tokenizer(request.user)["input_ids"])
        if not self._tokenizer.chat_template:
            return list(self._tokenizer(f"{request.system}\n\n{request.user}\n\nJSON:\n")["input_ids"])
        both = [{"role": "system", "content": request.system}, {"role": "user", "content": request.user}]
        one = [{"role": "user", "content": f"{request.system}\n\n{request.user}"}]
        try:
            text = self._tokenizer.apply_chat_template(both, tokenize=False, add_generation_prompt=True)
        except Exception:  # templates raise whatever they like when they know no system role
            text = self._tokenizer.apply_chat_template(one, tokenize=False, add_generation_prompt=True)
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _room(self, new_tokens: int) -> int:
        """Tokens that a prompt may have."""
        config = self._model.config
        positions = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
        most = min(self._tokenizer.model_max_length or _UNBOUNDED, positions or _UNBOUNDED)
        return max(1, int(most) - (0 if self.bare else new_tokens))

    def _new_tokens(self, request: Request) -> int:
        return _QUERY_TOKENS if self.bare else request.answer_tokens

    def _generate(self, prompts: Sequence[list[int]], first: Request, seed: int) -> list[tuple[list[str], int]]:
        """For each prompt its texts (one, or as many as queries are wanted) and how many tokens they took."""
        import torch

        copies = self._settings.queries_per_passage if self.bare else 1
        batch = self._tokenizer.pad({"input_ids": list(prompts)}, return_tensors="pt").to(self._model.device)
        torch.manual_seed(seed)
        temperature = self._settings.temperature
        sampling: dict[str, Any] = {"do_sample": True, "temperature": temperature or 1.0, "top_p": 0.95}
        if temperature == 0:
            sampling = {"do_sample": False, "num_beams": copies}
        with torch.inference_mode(), quiet_libraries():
            out = self._model.generate(
                **batch,
                max_new_tokens=self._new_tokens(first),
                num_return_sequences=copies,
                pad_token_id=self._tokenizer.pad_token_id,
                **sampling,
            )
        new = out if self.bare else out[:, batch["input_ids"].shape[1] :]
        texts = [str(text).strip() for text in self._tokenizer.batch_decode(new, skip_special_tokens=True)]
        lengths = (new != self._tokenizer.pad_token_id).sum(dim=1).tolist()
        return [
            (texts[i : i + copies], int(sum(lengths[i : i + copies]))) for i in range(0, copies * len(prompts), copies)
        ]


def _as_answer(texts: Sequence[str], request: Request) -> str:
    """Plain texts in the form that all answers are checked in; as many as are still wanted."""
    queries = [{"kind": DOC2QUERY, "text": text} for text in dict.fromkeys(texts)]
    return json.dumps({"queries": queries[: request.n_items]}, ensure_ascii=False)
