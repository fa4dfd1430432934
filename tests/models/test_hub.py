"""Hub: a model that can be had nowhere is refused after one question, in one sentence."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import huggingface_hub.constants
import pytest

from cached_ds.models.hub import check_source
from cached_ds.run.arguments import ModelArguments
from cached_ds.run.build import check_sources

NOBODY = "http://127.0.0.1:9"


@pytest.fixture
def asked(monkeypatch):
    """The paths that a hub without any model was asked for."""
    paths = []

    class NoModels(BaseHTTPRequestHandler):
        def do_GET(self):
            paths.append(self.path)
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()

        def log_message(self, *_):
            """Nothing."""

    with HTTPServer(("127.0.0.1", 0), NoModels) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield paths
        server.shutdown()


def test_a_hub_is_asked_once(asked, tmp_path):
    with pytest.raises(ValueError, match="^--model some/model: no such folder, and no hub .*Repository Not Found") as e:
        check_source("some/model", flag="model", cache_dir=str(tmp_path))
    assert "\n" not in str(e.value)
    assert [path for path in asked if "some/model" in path] == ["/api/models/some/model"]


@pytest.mark.parametrize("name", ["some/model", "/no/such/folder", "a b", "x" * 200, "../x", ""])
def test_without_a_hub(monkeypatch, tmp_path, name):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", NOBODY)
    with pytest.raises(ValueError, match="--tokenizer_name .*no such folder"):
        check_source(name, flag="tokenizer_name", cache_dir=str(tmp_path))


def test_folders_and_what_is_in_the_cache_are_taken(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", NOBODY)
    repository = tmp_path / "models--some--model"
    for file, content in (("refs/main", "abc"), ("snapshots/abc/config.json", "{}")):
        (repository / file).parent.mkdir(parents=True)
        (repository / file).write_text(content)
    check_source("some/model", flag="model", cache_dir=str(tmp_path))
    check_source(str(tmp_path), flag="model")
    with pytest.raises(ValueError, match="no such folder"):
        check_source("some/model", flag="model", cache_dir=str(tmp_path), revision="other")


def test_every_flag_that_names_one_is_checked(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", NOBODY)
    check_sources(ModelArguments(config_name="tiny-bart"))
    for flags in ({"model_name_or_path": "no/model"}, {"config_name": "no/config"}):
        ((flag, name),) = flags.items()
        with pytest.raises(ValueError, match=f"--{flag} {name}: no such folder"):
            check_sources(ModelArguments(**flags))
    with pytest.raises(ValueError, match="--tokenizer_name no/tokenizer: no such folder"):
        check_sources(ModelArguments(config_name="tiny-bart", tokenizer_name="no/tokenizer"))
