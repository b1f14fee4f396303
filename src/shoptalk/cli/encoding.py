"""`shoptalk encode`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from shoptalk.models.to_file import EncodedFile


def encode(
    file: Annotated[
        Path,
        typer.Argument(help="Texts: .jsonl (a BEIR corpus, or any field), .csv, .tsv, or .txt with one text a line."),
    ],
    out: Annotated[Path, typer.Option("--out", help="The .npy file to write; ids and facts are written beside it.")],
    model: Annotated[
        str | None,
        typer.Option(
            "--model", help="Model: a folder such as RUN/model, a Hub id or builtin:NAME. Default: the builtin."
        ),
    ] = None,
    role: Annotated[
        str, typer.Option("--as", help="What the texts are, query or document: decides the model's prompt.")
    ] = "document",
    field: Annotated[
        str | None, typer.Option("--field", help="Column or key that holds the text. Default: title and text.")
    ] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of the model, as in --set model.precision=fp32.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the facts as one line of JSON on stdout.")] = False,
) -> None:
    """Encode a file of texts into a .npy of unit vectors; after a kill the same command goes on."""
    from typing import cast

    from shoptalk.cli.console import rich_progress
    from shoptalk.settings import Settings, with_values

    if role not in ("query", "document"):
        raise typer.BadParameter(f"{role!r} is neither query nor document", param_hint="--as")
    settings = with_values(Settings(), assignments or []).model
    with rich_progress():
        from shoptalk.models.encoder import Role, load_encoder
        from shoptalk.models.texts import TextFile
        from shoptalk.models.to_file import encode_to_file

        texts = TextFile(file, field)
        total = sum(1 for _ in texts)  # a damaged line is told now, and not after an hour
        name = model or settings.base
        encoder = load_encoder(name, settings)
        done = encode_to_file(encoder, texts, out, cast(Role, role), total=total, model_name=name)
    if done.restarted:
        typer.echo(f"{out}: {done.restarted}", err=True)
    if as_json:
        paths = {"vectors": str(done.vectors), "ids": str(done.ids), "facts": str(done.facts)}
        note = {"resumed": done.resumed, "restarted": done.restarted}
        typer.echo(json.dumps({**done.about, **paths, **note}, ensure_ascii=False, allow_nan=False))
    else:
        _show(done)


def _show(done: EncodedFile) -> None:
    about = done.about
    typer.echo(
        f"{about['rows']:,} vectors of {about['dim']} dimensions ({about['precision']}, {about['seconds']:.1f} s)"
    )
    if done.resumed:
        typer.echo(f"{done.resumed:,} of them were there already")
    if about["truncated"]:
        typer.echo(
            f"{about['truncated']:,} texts are longer than {about['max_tokens']} tokens; the rest of them was not read"
        )
    typer.echo(f"vectors  {done.vectors}\nids      {done.ids}\nfacts    {done.facts}")
