"""Settings: one frozen model per stage. `shoptalk.yaml` is this, written out; unknown keys are errors.

Every default that was measured names its entry in docs/experiments.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from shoptalk.errors import SettingsError

BUILTIN_MODEL = "builtin:all-MiniLM-L6-v2"


def address_holds_secret(address: str) -> bool:
    """Whether a URL carries a user name, a password, a query or a fragment, which is where keys are put."""
    from urllib.parse import urlsplit

    parts = urlsplit(address)
    return bool("@" in parts.netloc or parts.query or parts.fragment)


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


class InputSettings(_Section):
    """What the user hands over."""

    source: str = Field("", description="folder of documents, BEIR folder, or labelled file")
    queries: str = Field("", description="labelled queries for SOURCE (training; split if there is no test file)")
    dev_queries: str = Field("", description="labelled queries kept as the dev split")
    test_queries: str = Field("", description="labelled queries kept as the test split")
    clicks: str = Field("", description="click or search log of the documents, read as weak labels to train with")
    dangling: Literal["error", "drop"] = Field(
        "error", description="judgements of passages or queries that do not exist"
    )
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="your column name for one of ours, as in {query: frage, positive: absatz}",
    )


class ModelSettings(_Section):
    """The base model and how it encodes."""

    base: str = Field(BUILTIN_MODEL, description="builtin:NAME, a folder, or a Hub id such as BAAI/bge-small-en-v1.5")
    query_prompt: str | None = Field(None, description="overrides the model's own query prompt")
    passage_prompt: str | None = Field(None, description="overrides the model's own passage prompt")
    max_tokens: int | None = Field(None, ge=8, description="overrides the model's own maximum sequence length")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    precision: Literal["auto", "fp32"] = Field("auto", description="auto uses bf16 where the hardware has it")


class IngestSettings(_Section):
    """Documents to passages."""

    passage_tokens: int = Field(200, ge=16, description="passage size in the base model's own tokens, at most")
    overlap_tokens: int = Field(0, ge=0, description="tokens of the text before, repeated at the start of a passage")
    max_file_mb: float = Field(10.0, gt=0, description="larger files are skipped, with the reason")
    max_archive_mb: float = Field(500.0, gt=0, description="what one archive may unpack to; the rest is skipped")
    max_archive_files: int = Field(20_000, ge=1, description="files that one archive may hold; the rest is skipped")
    repeated_share: float = Field(
        0.3, gt=0, le=1, description="share of a folder's files from which on a block in all of them is boilerplate"
    )
    timeout_s: float = Field(60.0, gt=0, description="seconds that parsing one file may take")
    memory_mb: int = Field(1024, ge=128, description="memory that parsing one file may take")
    workers: int = Field(0, ge=0, description="processes that parse; 0: as many as there are cores and work")


class QuerySettings(_Section):
    """Queries made without labels: which, how they are judged, and click logs as weak labels."""

    make: Literal["auto", "always", "never"] = Field(
        "auto", description="auto: only where no labels are left to train with; made queries beside labels only train"
    )
    kinds: tuple[
        Literal[
            "faq", "heading", "path", "title", "acronym", "definition", "term", "template", "sentence", "key-phrase",
        ], ...,
    ] = Field(
        ("faq", "heading", "path", "title", "acronym", "definition", "template", "key-phrase"),
        description="which offline generators run; the first of them have precedence",
    )  # fmt: skip
    per_passage: int = Field(2, ge=1, description="queries made offline for one passage, at most")
    review: str = Field("", description="CSV of made queries that a person edits (`shoptalk queries --review FILE`)")
    round_trip_k: int = Field(
        20, ge=0, description="base model or BM25 must find the passage in its top k; 0: not judged"
    )
    near_duplicate: float = Field(
        0.8, gt=0, le=1, description="queries of one passage that share so much, rare words counting more, are one"
    )
    copied_words: int = Field(8, ge=0, description="words in a row copied from the passage that are too many; 0: any")
    off_language: bool = Field(True, description="reject queries in another language than wanted")
    generic_share: float = Field(
        0.97, gt=0, le=1,
        description="too generic when the passage at rank k scores this share of the right one, 1: not judged",
    )  # fmt: skip
    llm_judge: bool = Field(False, description="the language model of `llm` scores made queries as well, at its cost")
    judge_min: int = Field(3, ge=1, le=5, description="LLM judge: lowest of its four scores (1 to 5) that is enough")
    click_eta: float = Field(1.0, ge=0, description="a result at rank r is looked at with chance (1/r) to this power")
    click_prior: float = Field(1.0, gt=0, description="looks without a click that every passage is given beforehand")
    click_min_weight: float = Field(0.3, ge=0, le=1, description="weaker clicks are rejected")
    skip_above: bool = Field(False, description="results passed over above a click are negatives of the query")


QueryKind = Literal["natural", "keywords", "acronym", "paraphrase", "comparison", "how-to"]


class LLMSettings(_Section):
    """Queries written by a language model. Keys come from the environment alone: OPENAI_API_KEY, ANTHROPIC_API_KEY."""

    provider: Literal["", "openai", "anthropic", "transformers"] = Field(
        "", description="empty: none; openai: any server of that protocol; transformers: a model on this machine"
    )
    model: str = Field("", description="the provider's name for it; for transformers a folder or a Hub id")
    base_url: str = Field(
        "", description="of another server, such as http://localhost:11434/v1; never with a key in it"
    )
    queries_per_passage: int = Field(4, ge=3, le=5)
    mix: dict[QueryKind, Annotated[float, Field(gt=0)]] = Field(
        {"natural": 3, "keywords": 2, "acronym": 1, "paraphrase": 2, "comparison": 1, "how-to": 1},
        description="kinds of queries with their weights",
        min_length=1,
    )
    language: str = Field("", description="of the queries, as in de or German; empty: that of the passage")
    persona: str = Field("", description="who asks, as in: a new nurse on the night shift")
    few_shot: int = Field(3, ge=0, le=10, description="your own queries shown as examples, at most")
    negatives: int = Field(0, ge=0, le=5, description="hard negatives written for a query")
    multi_passage: int = Field(0, ge=0, description="questions that need two passages of one document, at most")
    max_passages: int | None = Field(None, ge=1, description="passages asked about, spread evenly; empty: all")
    max_query_chars: int = Field(200, ge=20, description="longer queries are rejected")
    max_copied_words: int = Field(7, ge=3, description="words in a row that a query may share with its passage")
    answer_tokens: int = Field(1_500, ge=64, description="tokens of one answer, at most")
    temperature: float | None = Field(None, ge=0, le=2, description="empty: the provider's own")
    seed: int = Field(
        12, ge=0, description="for the choice of kinds, waiting times, and sampling where it is supported"
    )
    attempts: int = Field(3, ge=1, description="answers asked for until all queries of a passage are usable")
    concurrency: int = Field(8, ge=1, le=256, description="calls at the same time; prompts in a batch for transformers")
    requests_per_minute: int = Field(0, ge=0, description="calls started in a minute, at most; 0: no limit of our own")
    timeout_s: float = Field(120, gt=0, description="for one whole call")
    max_retries: int = Field(6, ge=0, description="of a call that failed on the way (429, 5xx, timeout)")
    max_wait_s: float = Field(300, gt=0, description="longest wait that a server may ask for; beyond it the run stops")
    price_in: float = Field(0, ge=0, description="money per million input tokens that you pay; 0: unknown or free")
    price_out: float = Field(0, ge=0, description="money per million output tokens that you pay; 0: unknown or free")
    max_cost: float | None = Field(None, ge=0, description="money for all calls of this run folder, never exceeded")
    max_total_tokens: int | None = Field(None, ge=0, description="input and output tokens of all calls, never exceeded")
    batch: bool = Field(False, description="Anthropic's Message Batches; give the batch prices")
    batch_poll_s: float = Field(30, gt=0, description="how often a batch is asked whether it is done")

    @model_validator(mode="after")
    def _fits_together(self) -> LLMSettings:
        # SettingsError passes through pydantic as it is; its own message would print an address with a password in it.
        if address_holds_secret(self.base_url):
            raise SettingsError(
                "llm.base_url holds a user name, a password or a query; take it out (its value is not shown here) and put "
                "the key into OPENAI_API_KEY or ANTHROPIC_API_KEY"
            )
        if self.provider and not self.model:
            raise SettingsError(f"llm.model is empty; say which model of {self.provider} to use")
        if self.max_cost is not None and not (self.price_in and self.price_out):
            raise SettingsError(
                "llm.max_cost needs llm.price_in and llm.price_out; or cap llm.max_total_tokens instead"
            )
        if self.batch and self.provider != "anthropic":
            raise SettingsError(f"llm.batch works with provider anthropic alone, not with {self.provider or 'none'}")
        return self


class DatasetSettings(_Section):
    """Checks and the split."""

    test_share: float = Field(0.20, gt=0, lt=0.9)
    dev_share: float = Field(0.15, gt=0, lt=0.9)
    min_test: int = Field(200, ge=1, description="test queries to aim at, where the data has enough")
    max_train: int | None = Field(
        None, ge=2, description="training queries at most, drawn by the seed (learning curves)"
    )
    near_duplicate: float = Field(0.8, gt=0, le=1, description="Jaccard over word 3-grams, verified exactly")
    test_on_clicks: bool = Field(False, description="clicks may become test and dev labels too")
    max_query_chars: int = Field(2_000, ge=10)
    max_passage_chars: int = Field(100_000, ge=100)


class BaselineSettings(_Section):
    """The gate. The thresholds are the tutorials' rules of thumb, not laws."""

    fine_above: float = Field(0.85, description="nDCG@10 of the base model above which tuning is probably not needed")
    tune_below: float = Field(0.70, description="nDCG@10 below which tuning will likely pay")
    too_few_pairs: int = Field(100, ge=0)
    sensible_pairs: int = Field(500, ge=0)
    reliable_pairs: int = Field(2_000, ge=0)
    max_queries: int = Field(1_000, ge=10, description="train and dev queries that the gate looks at, at most")
    gate: Literal["advise", "strict"] = Field("advise", description="strict stops the run when the gate says no")


class NegativeSettings(_Section):
    """Hard negatives, mined with the base model and BM25."""

    mine: int = Field(0, ge=0, le=15, description="mined per query; experiments: mined-negatives")
    margin: float = Field(0.95, gt=0, le=1, description="a negative scores under this share of the lowest positive")
    absolute_margin: float | None = Field(
        None, ge=0, le=2, description="and this much under the lowest positive, in cosine; empty: the share alone"
    )
    depth: int = Field(50, ge=1, description="how deep in the rankings of the base model and BM25 to look")
    bm25_share: float = Field(0.25, ge=0, le=1, description="share of the mined that comes from BM25's ranking")
    same_section: bool = Field(
        False, description="passages of a positive's own section (same source and headings) may be negatives"
    )
    cross_encoder: str = Field("", description="reranker that throws out what answers the query after all; empty: none")
    cross_encoder_share: float = Field(
        0.5, gt=0, le=1, description="a negative's probability by the reranker stays under this share of the positive's"
    )
    rounds: int = Field(
        1, ge=1, le=2, description="2: mine with the tuned model, train again, keep that where dev nDCG@10 rises"
    )

    @model_validator(mode="after")
    def _has_something_to_mine(self) -> NegativeSettings:
        if self.rounds > 1 and not self.mine:
            raise SettingsError(
                "negatives.rounds is 2, but negatives.mine is 0, so the second round has nothing to mine; set negatives.mine=1 "
                "or more, or negatives.rounds=1"
            )
        return self


class TrainSettings(_Section):
    """Fine-tuning. Defaults: docs/experiments.md."""

    epochs: int | Literal["auto"] = Field("auto", description="auto: as many as make `min_steps`, within 3 and 10")
    min_steps: int = Field(100, ge=1)
    batch_size: int = Field(32, ge=2, description="different passages (or scored pairs) a step")
    queries_per_passage: int = Field(8, ge=1, description="queries of one passage in one batch, which encodes it once")
    learning_rate: Annotated[float, Field(gt=0)] | Literal["auto"] = Field(
        "auto", description="auto: what suits the method (4e-5 for all weights)"
    )
    warmup_share: float = Field(0.1, ge=0, lt=1)
    schedule: Literal["linear", "cosine", "constant_with_warmup"] = "linear"
    weight_decay: float = Field(0.01, ge=0)
    hidden_dropout: float = Field(0.1, ge=0, lt=1)
    temperature: float = Field(0.05, gt=0, description="1 / scale of the loss's cosines")
    negatives: int | None = Field(None, ge=0, description="hard negatives used of those an example has; empty: all")
    symmetric: bool = Field(False, description="info-nce from passage to query as well")
    evaluations: int = Field(6, ge=1, description="how often dev is looked at during training")
    patience: int = Field(3, ge=1, description="evaluations without a better dev score before it stops")
    dev_haystack: int = Field(2_000, ge=100, description="passages that rank checkpoints; positives always among them")
    max_dev_queries: int = Field(500, ge=10)
    threads: int | None = Field(None, ge=1, description="CPU threads; the same number gives the same weights")
    loss: Literal[
        "auto", "info-nce", "multiple-negatives", "cached-multiple-negatives", "gist", "triplet", "margin-mse", "distill-kl",
        "cosine-similarity", "cosent",
    ] = Field("auto", description="auto: from the shape of the data; docs/training.md says when to use which")  # fmt: skip
    method: Literal["full", "lora", "query-linear", "query-mlp", "static"] = Field(
        "full", description="what is trained: all weights, adapters, or a static model; docs/training.md"
    )
    matryoshka: Literal["off", "halves"] | tuple[int, ...] = Field(
        "off", description="dimensions that must work when cut off; halves: the full size, its half, ... down to 32"
    )
    guide: str = Field(
        "", description="model that masks false negatives for the loss gist; empty: the base model itself"
    )
    teacher: str = Field("", description="cross-encoder or bi-encoder that scores for margin-mse and distill-kl")
    frozen_layers: int = Field(
        0,
        ge=0,
        description="lowest layers, with the word embeddings, that stay as they are; computed once, kept on disk",
    )
    gradient_checkpointing: bool = Field(False, description="less memory within a chunk for a third more time")
    chunk_tokens: int | None = Field(
        None, ge=16, description="tokens of one forward pass; empty: what suits the device"
    )
    memory_gib: float | None = Field(
        None, gt=0, description="memory that training may take; empty: most of what is free"
    )
    report_to: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = Field(
        (), description="trackers that follow the training, through the trainer's own integrations"
    )
    search: int = Field(
        0, ge=0, description="trials of a search over rate, batch, temperature, epochs, negatives; 0: none"
    )
    lora_rank: int = Field(16, ge=1, description="rank of LoRA's matrices; their weight is twice the rank")


class SelectSettings(_Section):
    """Which model is shipped."""


class EvaluateSettings(_Section):
    """The comparison."""

    depth: int = Field(100, ge=100, description="how many passages a ranking holds")
    resamples: int = Field(10_000, ge=100, description="for bootstrap and permutation")
    min_gain: float = Field(0.01, ge=0, description="nDCG@10 that `ship` needs")
    min_test: int = Field(50, ge=1, description="test queries that `ship` needs")


class DiagnoseSettings(_Section):
    """The findings' thresholds."""

    controls: str = Field("", description="file of control queries that have nothing to do with the domain")
    unchanged_cosine: float = Field(
        0.999, description="mean cosine of base to tuned embeddings above which nothing happened"
    )
    zero_loss: float = Field(0.01, ge=0, description="mean training loss at the end under which the data was memorised")
    bias_drift: float = Field(0.03, gt=0, description="drift of control queries to the domain, in cosine")
    duplicate_share: float = Field(0.2, gt=0, le=1)
    terms: int = Field(40, ge=0, description="terms of the team's own that are looked at before and after")
    general_words: int = Field(4_000, ge=0, description="words of general language that a term is held against")
    uncovered_share: float = Field(
        0.5, gt=0, le=1, description="share of the most telling terms without training data that is a finding"
    )


class ReportSettings(_Section):
    """The report."""

    title: str = ""
    examples: int = Field(10, ge=1, description="won and lost queries shown with their rankings")


class Settings(_Section):
    """Everything a run depends on, beside the input files themselves."""

    seed: int = Field(12, ge=0)
    input: InputSettings = InputSettings()
    model: ModelSettings = ModelSettings()
    ingest: IngestSettings = IngestSettings()
    queries: QuerySettings = QuerySettings()
    llm: LLMSettings = LLMSettings()
    dataset: DatasetSettings = DatasetSettings()
    baseline: BaselineSettings = BaselineSettings()
    negatives: NegativeSettings = NegativeSettings()
    train: TrainSettings = TrainSettings()
    select: SelectSettings = SelectSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    diagnose: DiagnoseSettings = DiagnoseSettings()
    report: ReportSettings = ReportSettings()


def read_settings(path: Path) -> Settings:
    """Read a `shoptalk.yaml`. Raises SettingsError that names the file, the key and what is wrong with it."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"{path}: no such settings file; `shoptalk init` writes one") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict | None):
        raise SettingsError(f"{path}: holds a {type(values).__name__}, not settings by name; see `shoptalk init`")
    # A section without a line under it is None in YAML: all of its defaults.
    return make_settings({name: value for name, value in (values or {}).items() if value is not None}, where=str(path))


def make_settings(values: Mapping[str, Any], where: str = "settings") -> Settings:
    """Settings from plain values. Raises SettingsError with one line per problem."""
    try:
        return Settings.model_validate(dict(values))
    except ValidationError as error:
        raise SettingsError("\n".join(_explain(problems, where) for problems in _by_setting(error.errors()))) from None


def with_values(settings: Settings, assignments: Iterable[str]) -> Settings:
    """`settings` changed by "section.key=value" texts; the values are YAML, or plain text where a setting is a text.

    Raises SettingsError.
    """
    values = settings.model_dump(mode="json")
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key.strip():
            raise SettingsError(f"--set {assignment}: write it as section.key=value, as in --set train.epochs=3")
        *sections, name = key.strip().split(".")
        place: Any = values
        for section in sections:
            place = place.get(section) if isinstance(place, dict) else None
        if not isinstance(place, dict) or (name not in place and sections != ["input", "columns"]):
            # Without the value, which may be a secret that has no place here.
            raise SettingsError(
                f"--set {key.strip()}: there is no setting {key.strip()}{_nearest(values, key.strip())}"
            )
        try:
            place[name] = _value(text, sections, name)
        except yaml.YAMLError:
            raise SettingsError(f"--set {assignment}: {text!r} is not a YAML value") from None
    return make_settings(values, where="--set")


def resolved_yaml(settings: Settings) -> str:
    """The resolved settings as YAML, as they are saved with a run."""
    values = yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return f"# The settings of this run, resolved. `shoptalk init` writes the same with comments.\n{values}"


def commented_yaml() -> str:
    """A `shoptalk.yaml` with every setting, its default and its meaning."""
    lines = ["# shoptalk.yaml: every setting with its default. Delete what you do not change.", ""]
    for name, info in Settings.model_fields.items():
        default = info.get_default(call_default_factory=True)
        if not isinstance(default, BaseModel):
            lines.append(f"{name}: {_as_yaml(default)}")
            continue
        fields = type(default).model_fields
        if not fields:
            continue
        lines += ["", f"# {(type(default).__doc__ or '').strip()}", f"{name}:"]
        for key, field in fields.items():
            value = f"  {key}: {_as_yaml(getattr(default, key))}"
            lines.append(f"{value:<40}  # {field.description}" if field.description else value)
    return "\n".join(lines) + "\n"


def _as_yaml(value: Any) -> str:
    text: str = yaml.safe_dump(list(value) if isinstance(value, tuple) else value, default_flow_style=True)
    return text.replace("\n...", "").strip()


def _value(text: str, sections: list[str], name: str) -> Any:
    """A value as people write it: `query: ` is a prompt and no mapping, 3e-5 is a number, which YAML reads as a text."""
    if _wants_text(sections, name):
        quoted = text[:1] in ("'", '"')
        return yaml.safe_load(text) if quoted or text in ("null", "~") else text
    value = yaml.safe_load(text)
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _wants_text(sections: list[str], name: str) -> bool:
    if sections == ["input", "columns"]:
        return True
    section = Settings.model_fields[sections[0]].annotation if sections else Settings
    field = getattr(section, "model_fields", {}).get(name)
    return field is not None and field.annotation in (str, str | None)


def _nearest(values: Mapping[str, Any], key: str) -> str:
    import difflib

    names = [f"{s}.{k}" for s, section in values.items() if isinstance(section, dict) for k in section]
    close = difflib.get_close_matches(key, [*names, "seed"], n=1)
    return f"; did you mean {close[0]}?" if close else "; `shoptalk init` writes all of them"


def _by_setting(problems: Iterable[Any]) -> list[list[Any]]:
    """A setting of several types has a problem with each of them."""
    found: dict[tuple[Any, ...], list[Any]] = {}
    for problem in problems:
        found.setdefault(problem["loc"][:2], []).append(problem)
    return list(found.values())


def _explain(problems: list[Any], where: str) -> str:
    first = problems[0]
    key = ".".join(str(part) for part in first["loc"][:2])
    if first["type"] == "extra_forbidden":
        return f"{where}: there is no setting {key}{_nearest(Settings().model_dump(mode='json'), key)}"
    said = dict.fromkeys(problem["msg"][0].lower() + problem["msg"][1:] for problem in problems)
    return f"{where}: {key} is {first['input']!r}; {', or '.join(said)}"
