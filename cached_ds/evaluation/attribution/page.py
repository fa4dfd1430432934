"""Page: the records of attribution as one HTML file that needs nothing else, for any browser.

All that was written by others (documents, summaries, names) is data: it lies in script elements of the type
application/json, with the characters escaped that could end one, and the page's program puts it in as text. The page's
policy lets no other program run than its own, which it names by its digest, and nothing be fetched.

A bin of the chart of positions gets the attention of the part of the document in it; a window's is spread evenly.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cached_ds.evaluation.attribution.records import read_records

PAGE = "report.html"
BINS = 20
_ESCAPED = {ord(letter): f"\\u{ord(letter):04x}" for letter in "<>&\u2028\u2029"}


def write_page(path: Path) -> Path:
    """Draw the records of a file into `report.html` beside it; returns the page's path.

    Raises:
        ValueError: what `read_records` refuses.
    """
    records = read_records(path)
    page = importlib.resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    for kind in ("script", "style"):
        page = page.replace(f"{kind.upper()}_DIGEST", _digest(page, kind))
    blocks = [_block("overview", _overview(records)), *(_block("record", record) for record in records)]
    before, after = page.split("<!-- data -->")
    (written := path.with_name(PAGE)).write_text(before + "\n".join(blocks) + after, encoding="utf-8")
    return written


def _digest(page: str, kind: str) -> str:
    """The digest by which the page's policy allows its own element of a kind."""
    content = re.search(rf"<{kind}>(.*?)</{kind}>", page, flags=re.DOTALL)
    assert content is not None, kind
    return base64.b64encode(hashlib.sha256(content[1].encode()).digest()).decode()


def _block(kind: str, value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":")).translate(_ESCAPED)
    return f'<script type="application/json" class="{kind}">{text}</script>'


def _overview(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the page shows of all documents: their names and sizes, and the mean of their attention by position."""
    documents = [{"name": each["document"], "tokens": each["tokens"]} for each in records]
    written = [positions(each) for each in records if each["sentences"]]
    means = np.mean(written, axis=0).round(5).tolist() if written else []
    return {"documents": documents, "positions": means, "written": len(written)}


def positions(record: Mapping[str, Any]) -> np.ndarray:
    """The shares [BINS] of equal parts of a document in the attention of its summary's tokens."""
    tokens = np.array([sentence["tokens"] for sentence in record["sentences"]])
    shares = np.array([sentence["shares"] for sentence in record["sentences"]])
    starts, stops = np.array(record["spans"]).T[:, :, None]
    edges = np.linspace(0, record["tokens"], BINS + 1)
    common = (np.minimum(stops, edges[1:]) - np.maximum(starts, edges[:-1])).clip(min=0)
    return (tokens @ shares / tokens.sum()) @ (common / (stops - starts))
