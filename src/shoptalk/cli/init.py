"""`shoptalk init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def init(
    path: Annotated[Path, typer.Argument(help="File to write.")] = Path("shoptalk.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Write a shoptalk.yaml with every setting, its default and its meaning."""
    from shoptalk.errors import InputError
    from shoptalk.settings import commented_yaml

    if path.exists() and not force:
        raise InputError(f"{path}: exists already; --force overwrites it")
    try:
        path.write_text(commented_yaml(), encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None
    typer.echo(f"wrote {path}; use it with: shoptalk run SOURCE --config {path}")
