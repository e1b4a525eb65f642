"""Pieces of a self-contained HTML page: no scripts, no requests; light, dark, wide, narrow."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ..files import write_text

__all__ = [
    "details",
    "figures",
    "number",
    "paragraph",
    "picture",
    "section",
    "table",
    "tiles",
    "write_page",
]

_MAX_SIDE = 1400  # pixels of an embedded picture
_STYLE = """
:root { color-scheme: light dark; --ink: #1f2329; --soft: #5c6670; --paper: #fff; --card: #f5f6f8;
  --line: #d9dde2; --good: #1c7f4d; --bad: #b3372f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --soft: #9aa4af; --paper: #15181c;
  --card: #1e2228; --line: #353b43; --good: #58c48d; --bad: #ef7d74; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.2rem; max-width: 1240px; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .7rem; padding-bottom: .2rem;
  border-bottom: 1px solid var(--line); }
p { margin: .5rem 0; max-width: 75ch; } .soft { color: var(--soft); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(6.5rem, 1fr)); gap: .6rem;
  margin: 1rem 0; }
.tiles div { background: var(--card); border-radius: .5rem; padding: .6rem .8rem; }
.tiles b { display: block; font-size: 1.4rem; font-variant-numeric: tabular-nums; }
.tiles span { color: var(--soft); font-size: .85rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 430px), 1fr));
  gap: 1rem; align-items: start; }
.figures svg { width: 100%; height: auto; background: var(--card); border-radius: .5rem;
  padding: .5rem; }
.scroll { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
th { color: var(--soft); font-weight: 600; } th:first-child, td:first-child { text-align: left;
  position: sticky; left: 0; background: var(--paper); }
td.good { color: var(--good); } td.bad { color: var(--bad); }
figure { margin: 0 0 1rem; } figcaption { color: var(--soft); font-size: .9rem; }
figure div { overflow-x: auto; } figure img { width: 100%; min-width: 620px; height: auto;
  display: block; border-radius: .5rem; }
pre { background: var(--card); padding: .8rem; border-radius: .5rem; overflow-x: auto;
  font-size: .82rem; line-height: 1.4; }
summary { cursor: pointer; margin: .6rem 0; }
"""


def write_page(path: Path, title: str, body: Iterable[str]) -> None:
    """Write a page atomically.

    Args:
        path: of the HTML file.
        title: its heading.
        body: pieces of HTML.
    """
    text = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # Nothing may be fetched, whatever a class or a file is called.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "img-src data:; style-src 'unsafe-inline'\">"
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><h1>{_text(title)}</h1>\n" + "\n".join(body) + "\n</body></html>\n"
    )
    write_text(path, text)


def section(title: str, *pieces: str) -> str:
    """A heading and what follows it; nothing if all of that is empty."""
    content = "\n".join(p for p in pieces if p)
    return f"<section><h2>{_text(title)}</h2>{content}</section>" if content else ""


def paragraph(text: str, soft: bool = False) -> str:
    """A paragraph of text; soft is for remarks."""
    return f"<p{' class=soft' if soft else ''}>{_text(text)}</p>"


def tiles(values: Sequence[tuple[str, str]]) -> str:
    """(name, value) pairs to read at a glance."""
    made = "".join(f"<div><b>{_text(v)}</b><span>{_text(n)}</span></div>" for n, v in values)
    return f'<div class="tiles">{made}</div>' if values else ""


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table; floats get one decimal. A (text, class) pair is colored: "good" or "bad"."""
    if not rows:
        return ""
    head = "".join(f"<th>{_text(c)}</th>" for c in columns)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        "</div>"
    )


def figures(svgs: Sequence[str]) -> str:
    """SVGs beside each other where there is room."""
    return f'<div class="figures">{"".join(svgs)}</div>' if svgs else ""


def picture(file: Path, caption: str) -> str:
    """An image file, embedded as JPEG."""
    with Image.open(file) as image:
        rgb = image.convert("RGB")
    rgb.thumbnail((_MAX_SIDE, _MAX_SIDE))
    data = io.BytesIO()
    rgb.save(data, "JPEG", quality=82)
    encoded = base64.b64encode(data.getvalue()).decode()
    source = f"data:image/jpeg;base64,{encoded}"
    return (
        f'<figure><div><img alt="{_text(caption)}" src="{source}"></div>'
        f"<figcaption>{_text(caption)}</figcaption></figure>"
    )


def details(summary: str, text: str, is_open: bool = False) -> str:
    """Preformatted text that unfolds."""
    if not text:
        return ""
    opened = " open" if is_open else ""
    return f"<details{opened}><summary>{_text(summary)}</summary><pre>{_text(text)}</pre></details>"


def number(value: float | None, digits: int = 1) -> str:
    """A number as text; "–" for what is not there."""
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _cell(value: Any) -> str:
    kind = ""
    if isinstance(value, tuple):
        value, kind = value
    if value is None or isinstance(value, float):
        value = number(value)
    elif isinstance(value, int):
        value = f"{value:,}"
    return f"<td{f' class={kind}' if kind else ''}>{_text(value)}</td>"


def _text(value: Any) -> str:
    return html.escape(str(value))
