"""The frame of a page and its building blocks; all text that comes in is escaped here or by the caller."""

import os
import pathlib
from collections.abc import Iterable
from html import escape

import numpy as np

from gempi_jax.report.panels import Panel
from gempi_jax.report.plots import Curve
from gempi_jax.report.style import STYLE
from gempi_jax.report.tables import Table, percent, rounded


def write_page(path: pathlib.Path, content: str) -> pathlib.Path:
    """Replaces a page in one move, so that a browser never reads half of it."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(content, encoding="utf-8")
    os.replace(temporary, path)
    return path


def page(title: str, parts: Iterable[str]) -> str:
    """A whole document; its policy forbids scripts and everything from elsewhere."""
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
            f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body><main>",
            *(part for part in parts if part),
            "</main></body>\n</html>\n",
        ]
    )


def table_html(table: Table, totals: int = 0) -> str:
    """A table, the last ``totals`` rows set off."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.header)
    rows = []
    for index, row in enumerate(table.rows):
        css = ' class="total"' if index >= len(table.rows) - totals else ""
        rows.append(f"<tr{css}>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>")
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def figure_html(panel: Panel, title: str, curves: list[Curve], svg: str, css: str = "") -> str:
    """A figure with its title, keys with the latest values, drawing and note."""
    form = percent if panel.share else rounded
    keys = "".join(
        f'<span><i class="k{index}"></i>{escape(curve.label)} <b>{form(_latest(curve))}</b></span>'
        for index, curve in enumerate(curves, start=1)
    )
    return (
        f'<figure class="card {css}"><h3>{escape(title)}</h3><div class="keys">{keys}</div>{svg}'
        f'<figcaption class="note">{escape(panel.note)}</figcaption></figure>'
    )


def _latest(curve: Curve) -> float:
    return float(np.mean([series.values[-1] for series in curve.series if len(series.values)]))
