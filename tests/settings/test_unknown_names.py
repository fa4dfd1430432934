"""What an unknown name is answered with."""

from __future__ import annotations

from cached_ds.settings.unknown_names import nearest, unknown


def test_nearest_finds_a_typo_and_nothing_in_noise():
    assert nearest("windwo", {"window", "overlap"}) == "window"
    assert nearest("zzz", {"window", "overlap"}) is None


def test_unknown_names_the_nearest_or_lists_the_known():
    assert unknown("windwo", ["window", "overlap"], kind="field") == "unknown field 'windwo': did you mean 'window'?"
    assert unknown(7, ["window", "overlap"], kind="field") == "unknown field '7': known are overlap, window"
