"""Effects. What every command shares: where data and talk go, and the arguments that several of them take."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer
from rich.cells import cell_len
from rich.console import Console

from orchestrator.errors import UsageError
from orchestrator.ports import ObjectStore

if TYPE_CHECKING:
    from orchestrator.survey import Survey

NO_TERMINAL_WIDTH = 4000  # a file or a pipe has no right edge to wrap at


def _width(stream: TextIO | None) -> int | None:
    return None if stream and stream.isatty() else NO_TERMINAL_WIDTH


out = Console(soft_wrap=True, width=_width(sys.stdout))
talk = Console(stderr=True, width=_width(sys.stderr))

FleetFile = Annotated[Path, typer.Argument(metavar="FLEET", help="The fleet file, fleet.yaml.")]
StoreOption = Annotated[
    str | None,
    typer.Option("--store", help="A store's URL, or a fleet file that names it. Default: fleet.yaml."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def is_fleet(option: str | None) -> bool:
    """Whether `--store` names a fleet file; nothing means fleet.yaml."""
    return not option or option.endswith((".yaml", ".yml"))


def open_store(option: str | None) -> ObjectStore:
    """The store that `--store` names. Errors: SpecError; UsageError, for a directory that is not there."""
    from orchestrator.spec import StoreSpec
    from orchestrator.stores.opening import open_store as opened
    from orchestrator.survey import read_fleet

    if option and not is_fleet(option):
        if "://" in option:
            return opened(StoreSpec(url=option))
        if not Path(option).is_dir():
            raise UsageError(
                f"--store {option}: there is no such directory; name a store, or a fleet file that ends in .yaml or .yml"
            )
        return opened(StoreSpec(url=str(Path(option).resolve())))
    return opened(read_fleet(Path(option or "fleet.yaml"))[0].store)


def survey_of(fleet: Path, *, retry_quarantined: bool = False) -> Survey:
    """What a fleet file's plan is made from, and the plan. Errors: SpecError; those of registries and store."""
    from orchestrator.survey import read_fleet, survey

    spec, text = read_fleet(fleet)
    return survey(spec, text, time.time(), retry_quarantined=retry_quarantined)


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows as lines whose columns stand below each other, for where nothing has to be folded: rich takes a millisecond a row."""
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = zip(row, widths, strict=True)
        yield "  ".join(f"{cell}{' ' * (width - cell_len(cell))}" for cell, width in cells)


def print_json(value: Any) -> None:
    """JSON on stdout; a number that is none, or has no end, is null, for JSON has neither."""
    is_narrow = not sys.stdout.encoding or not sys.stdout.encoding.lower().startswith("utf")
    sys.stdout.write(json.dumps(_finite(value), indent=2, default=str, ensure_ascii=is_narrow) + "\n")


def _finite(value: Any) -> Any:
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {key: _finite(one) for key, one in value.items()}
        case list() | tuple():
            return [_finite(one) for one in value]
    return value


def write_file(path: Path, data: bytes, *, is_new: bool = False) -> None:
    """Writes a file that the user named, and says so; with `is_new` only where there is none. Errors: UsageError."""
    try:
        with path.open("xb" if is_new else "wb") as file:
            file.write(data)
    except FileExistsError:
        raise UsageError(f"{path} exists; move it away or choose another name with --to") from None
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written: {error.strerror}; name a file in a folder that is there and yours"
        ) from error
    say(f"wrote {path}")


def say(text: str, style: str | None = None) -> None:
    """One line of talk, as it is: nothing in it is mark-up."""
    talk.print(text, style=style, markup=False, highlight=False, soft_wrap=True)
