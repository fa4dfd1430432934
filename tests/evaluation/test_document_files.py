"""Document files: what each kind of file holds, and the sentence for one that holds nothing."""

from __future__ import annotations

import io
import json
import sys

import pytest
from pypdf import PdfWriter
from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

from cached_ds.evaluation.document_files import TextDocument, read_documents


def write_pdf(path, *lines):
    """A page for every line, in a font that every reader has."""
    writer = PdfWriter()
    font = DictionaryObject({NameObject(f"/{key}"): NameObject(f"/{value}") for key, value in
                             (("Type", "Font"), ("Subtype", "Type1"), ("BaseFont", "Helvetica"))})  # fmt: skip
    for line in lines:
        page = writer.add_blank_page(300, 300)
        content = DecodedStreamObject()
        content.set_data(f"BT /F1 12 Tf 20 200 Td ({line}) Tj ET".encode())
        fonts = DictionaryObject({NameObject("/F1"): font})
        page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
        page[NameObject("/Contents")] = writer._add_object(content)
    writer.write(path)


def test_a_text_file_is_one_document(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("\ufeffOne.\nTwo.", encoding="utf-8")
    assert read_documents(str(path)) == [TextDocument(str(path), "One.\nTwo.")]


def test_standard_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("Some text."))
    assert read_documents("-") == [TextDocument("standard input", "Some text.")]


def test_json_lines_hold_many(tmp_path):
    path = tmp_path / "a.jsonl"
    rows = [{"id": "1", "report": "One.", "summary": ["s"]}, {"id": "2", "report": "Two.", "summary": ["t"]}]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    found = read_documents(str(path))
    assert [document.text for document in found] == ["One.", "Two."]
    assert found[1].name == f"{path}, line 2"
    assert [document.text for document in read_documents(str(path), text_column="id")] == ["1", "2"]
    assert [document.text for document in read_documents(str(path), text_column="summary[0]")] == ["s", "t"]


def test_prefixes_of_their_own(tmp_path):
    path = tmp_path / "a.jsonl"
    rows = [{"body": "One.", "query": "why?"}, {"body": "Two.", "query": ""}]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    found = read_documents(str(path), prefix_column="query")
    assert [(document.text, document.prefix) for document in found] == [("One.", "why?"), ("Two.", "")]
    (tmp_path / "a.txt").write_text("One.")
    with pytest.raises(ValueError, match="a.txt: prefix_column='query' is refused; only JSON Lines have columns"):
        read_documents(str(tmp_path / "a.txt"), prefix_column="query")


def test_pages_of_a_pdf(tmp_path):
    path = tmp_path / "a.pdf"
    write_pdf(path, "First page.", "Second page.")
    assert read_documents(str(path))[0].text.split() == ["First", "page.", "Second", "page."]


def test_what_a_browser_shows_of_html(tmp_path):
    path = tmp_path / "a.html"
    path.write_text("<head><title>t</title></head><p>One &amp; two.<script>x()</script><p>Three.", encoding="utf-8")
    assert read_documents(str(path))[0].text.split() == ["One", "&", "two.", "Three."]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b" \n", "the file is empty"),
        ("a.txt", b"\xff\xfe\xff", "not UTF-8"),
        ("a.jsonl", b"", "the file is empty"),
        ("a.jsonl", b'{"x": "1", "y": "2"}', "line 1: which column is the text"),
        ("a.jsonl", b'{"text": 3}', "line 1: column 'text' must hold text"),
        ("a.jsonl", b"{", "line 1: not valid JSON"),
        ("a.pdf", b"no pdf", "not a PDF that can be read"),
        ("a.html", b"<script>x()</script>", "the file is empty"),
    ],
)
def test_what_holds_no_document_is_named(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_documents(str(path))
    assert str(path) in str(caught.value)
