"""Timeouts that grow with the work of a window."""

import pytest

from infinitedub.pipeline.pools.gather import AdaptiveTimeout
from infinitedub.pipeline.pools.window_work import window_work


def test_the_published_settings_at_480p_are_the_unit_and_less_work_counts_as_one() -> None:
    assert window_work(640, 640, 40, 3) == 1
    assert window_work(832, 480, 4, 1) == 1
    assert window_work(64, 64, 40, 3) == 1


def test_a_720p_window_of_120_evaluations_has_more_time_than_an_a100_takes() -> None:
    work = window_work(960, 960, 40, 3)
    assert work == pytest.approx(2.25**1.7)
    assert AdaptiveTimeout(3600, 4, 300).seconds_for("720p", work) > 2 * 4600  # seconds on an A100, computed from its peak


def test_the_upper_bound_of_a_learnt_timeout_grows_with_the_work() -> None:
    timeout = AdaptiveTimeout(3600, 4, 300)
    timeout.observe("720p", 4600)
    assert timeout.seconds_for("720p", 3.0) == 3 * 3600
    assert timeout.seconds_for("720p", 10.0) == 4 * 4600
