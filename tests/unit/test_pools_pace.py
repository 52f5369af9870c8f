"""The watchdog's patience: the longest before anything is known, then a multiple of the slowest window of its kind."""

from infinitedub.pipeline.pools.pace import AdaptiveTimeout


def test_patience_is_learnt_for_each_kind_of_window() -> None:
    pace = AdaptiveTimeout(longest_seconds=3600, factor=4, floor_seconds=300)
    assert pace.patience("480p") == 3600
    pace.heard("480p", 200)
    pace.heard("480p", 100)  # the slowest counts
    assert pace.patience("480p") == 800
    assert pace.patience("720p") == 3600  # which may need five times as long


def test_patience_has_a_floor_and_a_ceiling() -> None:
    pace = AdaptiveTimeout(longest_seconds=3600, factor=4, floor_seconds=300)
    pace.heard("toy", 0.1)
    assert pace.patience("toy") == 300
    pace.heard("slow", 2000)
    assert pace.patience("slow") == 3600
