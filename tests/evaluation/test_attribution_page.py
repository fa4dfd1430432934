"""The page of attribution in a real browser: a click shows the windows, no text runs, nothing is fetched."""

from __future__ import annotations

import json

import pytest

from cached_ds.evaluation.attribution.page import write_page
from lab.browser import Browser, installed

WINDOWS, SENTENCES, LENGTH = 1000, 30, 1024
HOSTILE = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1><!--<script> \u2028 & <b>"
PIXEL = "strip.getContext('2d').getImageData(eighth * strip.width / 8, strip.height / 2, 1, 1).data[3]"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A browser that serves all tests of this file."""
    program = installed()
    if program is None:
        pytest.skip("needs Chromium (Debian: apt-get install chromium)")
    found = Browser(program, tmp_path_factory.mktemp("chromium"))
    yield found
    found.close()


def record(*, windows=WINDOWS, sentences=SENTENCES, name="book.txt", drop=1.25):
    """A document whose sentences looked at one window after another, in its order."""
    tops = [[(windows * number // sentences + step) % windows for step in range(5)] for number in range(sentences)]
    shares = [[0.0] * windows for _ in range(sentences)]
    for own, top in zip(shares, tops, strict=True):
        for rank, window in enumerate(top):
            own[window] += (0.5, 0.2, 0.15, 0.1, 0.05)[rank]
    return {
        "document": name,
        "tokens": windows * LENGTH,
        "spans": [[number * LENGTH, (number + 1) * LENGTH] for number in range(windows)],
        "texts": {number: f"text of window {number}. " * 150 for top in tops for number in top},
        "sentences": [
            {"text": f"Sentence {number}.", "tokens": 9, "shares": shares[number], "top": tops[number], "drop": drop}
            for number in range(sentences)
        ],
    }


def opened(browser, folder, *records):
    """The page of some records, in the browser, which fetched nothing else and had nothing to complain of."""
    path = folder / "attribution.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in records))
    page = write_page(path)
    browser.size(1280, 900)
    browser.open(page)
    told = [event for event in browser.events if event["method"] in ("Log.entryAdded", "Runtime.exceptionThrown")]
    requests = [event for event in browser.events if event["method"] == "Network.requestWillBeSent"]
    assert not told and [event["params"]["request"]["url"] for event in requests] == [page.as_uri()]
    return page


def texts(browser, selector):
    """What is seen of all elements of a kind."""
    return browser.run(f"[...document.querySelectorAll({json.dumps(selector)})].map(element => element.innerText)")


def pressed(browser):
    """The numbers of the sentences that are chosen."""
    found = browser.run("[...document.querySelectorAll('.sentence')].map(each => each.getAttribute('aria-pressed'))")
    return [number for number, each in enumerate(found) if each == "true"]


def test_a_click_shows_the_windows_of_a_sentence(browser, tmp_path):
    page = opened(browser, tmp_path, record())
    assert page.stat().st_size < 2**20
    assert len(texts(browser, ".sentence")) == SENTENCES and pressed(browser) == [0]
    browser.click(".sentence", 15)
    assert pressed(browser) == [15]
    windows = texts(browser, ".window")
    assert len(windows) == 5 and windows[0].startswith("50 % · window 501 of 1,000")
    assert "tokens 512,001 to 513,024, 50 % into the document" in windows[0] and "text of window 500." in windows[0]


def test_the_keyboard_does_too(browser, tmp_path):
    opened(browser, tmp_path, record())
    for key in ("Tab", "Tab", "Enter"):
        browser.press(key)
    assert pressed(browser) == [1] and "text of window 33." in texts(browser, ".window")[0]


def test_the_strip_is_dark_where_the_attention_is(browser, tmp_path):
    opened(browser, tmp_path, record(windows=4, sentences=4))
    for number in range(4):
        strip = f"(strip => [1, 3, 5, 7].map(eighth => {PIXEL}))(document.querySelectorAll('canvas')[{number}])"
        places = browser.run(strip)
        assert places.index(max(places)) == number and max(places) == 255
    assert texts(browser, ".drop") == ["−1.25"] * 4


def test_documents_are_chosen_from_a_list(browser, tmp_path):
    opened(browser, tmp_path, record(), record(windows=1, sentences=1, name="note.txt", drop=None))
    assert texts(browser, "nav button") == ["book.txt\n1,024,000 tokens", "note.txt\n1,024 tokens"]
    browser.click("nav button", 1)
    assert texts(browser, "#name") == ["note.txt"] and texts(browser, ".drop") == []
    assert browser.run("document.querySelectorAll('.bar').length") == 20
    assert "the mean over 2 documents" in texts(browser, "#positions")[0]


def test_an_empty_summary(browser, tmp_path):
    opened(browser, tmp_path, record(sentences=0))
    assert "The summary is empty." in texts(browser, "#windows")[0]
    assert browser.run("document.querySelector('#position').hidden")


def test_texts_are_shown_and_never_run(browser, tmp_path):
    hostile = record(windows=1, sentences=1, name=HOSTILE)
    hostile["sentences"][0]["text"] = HOSTILE
    hostile["texts"] = {0: HOSTILE}
    opened(browser, tmp_path, hostile, hostile)
    for selector in ("#name", ".sentence span", ".text", "nav button"):
        assert texts(browser, selector)[0].replace("\n", " ").startswith(HOSTILE[:60]), selector
    assert browser.run("document.querySelectorAll('img, b:not(.window b)').length") == 0
    assert browser.run("typeof window.hacked") == "undefined"
    browser.run("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=window.hacked=1>')")
    browser.run("new Promise(done => setTimeout(done, 100))")
    assert browser.run("typeof window.hacked") == "undefined", "the page's policy lets no program of others run"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_follows_the_colour_scheme(browser, tmp_path, scheme):
    opened(browser, tmp_path, record(windows=3, sentences=2))
    browser.size(1280, 900, scheme=scheme)
    red = browser.run("+getComputedStyle(document.body).backgroundColor.match(/[0-9]+/)[0]")
    assert (red > 200) is (scheme == "light")
