"""Effects. Writes every dashboard as the JSON that Grafana provisions: `make dashboards`."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent


def written() -> dict[str, str]:
    """File name -> JSON."""
    try:
        from grafana_foundation_sdk.cog.encoder import JSONEncoder
    except ImportError:
        raise SystemExit(
            "dashboards are made with Grafana's builders: pip install 'prunefleet[dashboards]'"
        ) from None
    from boards import BOARDS
    from panels import build

    encoder = JSONEncoder(sort_keys=True, indent=2)
    return {f"{board.uid}.json": encoder.encode(build(board).build()) + "\n" for board in BOARDS}


def main() -> None:
    """Replaces the files in dashboards/grafana."""
    folder = HERE / "grafana"
    folder.mkdir(exist_ok=True)
    for name, text in written().items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
