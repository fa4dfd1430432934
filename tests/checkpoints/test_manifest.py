"""What belongs to a checkpoint, and that no byte of it changes unnoticed."""

from __future__ import annotations

import json

import pytest

from cached_ds.checkpoints import manifest


@pytest.fixture
def whole(tmp_path):
    """A folder of three files, one of them below, with its manifest."""
    (tmp_path / "below").mkdir()
    for name, content in {"a": b"1234", "b": b"12", "below/c": b"1"}.items():
        (tmp_path / name).write_bytes(content)
    sizes = manifest.sizes(tmp_path)
    manifest.write(tmp_path, {"step": 3}, sizes=sizes, digests=manifest.digests(tmp_path, sizes))
    return tmp_path


def test_it_names_every_file_and_what_the_run_says(whole):
    entries = manifest.read(whole)
    assert entries["step"] == 3
    assert {name: entry["bytes"] for name, entry in entries["files"].items()} == {"a": 4, "b": 2, "below/c": 1}
    assert manifest.fault(whole) is None


@pytest.mark.parametrize("place", ["a", "b", "below/c", manifest.MANIFEST])
def test_any_flipped_bit_is_seen(whole, place):
    content = bytearray((whole / place).read_bytes())
    for position in range(0, len(content), max(1, len(content) // 40)):
        content[position] ^= 1
        (whole / place).write_bytes(content)
        assert place in manifest.fault(whole), position
        content[position] ^= 1
    (whole / place).write_bytes(content)
    assert manifest.fault(whole) is None


@pytest.mark.parametrize("place", ["a", "b", "below/c", manifest.MANIFEST])
def test_missing_files_and_bytes_are_seen(whole, place):
    content = (whole / place).read_bytes()
    (whole / place).write_bytes(content[:-1])
    assert place in manifest.fault(whole)
    (whole / place).unlink()
    assert place in manifest.fault(whole)


def test_one_of_another_version_is_refused(whole):
    entries = manifest.read(whole) | {"version": 2}
    (whole / manifest.MANIFEST).write_text(json.dumps(entries | {"sha256": manifest._own_digest(entries)}))
    assert manifest.fault(whole) == "manifest.json is of version 2; this cached_ds reads 1"


def test_readers_share_the_bytes_and_miss_none():
    sizes = {"large": 100, "x": 40, "y": 30, "z": 30, "empty": 0}
    dealt = manifest.shares(sizes, count=2)
    assert sorted(sum(dealt, [])) == sorted(sizes)
    assert [sum(sizes[name] for name in hand) for hand in dealt] == [100, 100]
    assert manifest.shares(sizes, count=9)[8] == []


def test_each_share_sees_its_own_damage(whole):
    (whole / "b").write_bytes(b"")
    found = [manifest.fault(whole, share=share, count=3) for share in range(3)]
    assert [one for one in found if one is not None] == ["b has 0 bytes instead of 2"]
