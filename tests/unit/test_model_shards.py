"""How tokens are dealt among ranks."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some

from infinitedub.stages.errors import ConfigError
from infinitedub.stages.model.shards import Shard, SingleDevice, plan_shards, split_tokens


@pytest.mark.parametrize("degree", [1, 2, 4, 8])
def test_a_window_of_the_release_is_dealt_whole(degree):
    """832x480 and 81 frames: 21 latent frames of 52x30 tokens."""
    shards = plan_shards(21 * 1560, 1560, heads=40, degree=degree)
    assert [shard.start for shard in shards] == [rank * 32760 // degree for rank in range(degree)]
    assert shards[-1].stop == 32760
    assert (shards[0].first_frame, shards[-1].stop_frame) == (0, 21)


def test_three_ranks_begin_at_whole_frames_and_eight_do_not():
    three, eight = split_tokens(32760, 1560, 3), split_tokens(32760, 1560, 8)
    assert [(s.first_frame, s.stop_frame, s.tokens_before, s.tokens_after) for s in three] == [(0, 7, 0, 0), (7, 14, 0, 0), (14, 21, 0, 0)]
    assert (eight[1].start, eight[1].first_frame, eight[1].stop_frame, eight[1].tokens_before, eight[1].tokens_after) == (4095, 2, 6, 975, 1170)


def test_heads_must_divide():
    with pytest.raises(ConfigError, match="40 attention heads"):
        plan_shards(32760, 1560, heads=40, degree=3)


def test_ranks_in_a_ring_need_no_heads():
    assert len(plan_shards(32760, 1560, heads=40, degree=6, ring=3)) == 6
    with pytest.raises(ConfigError, match="no multiple of the ring size 4"):
        plan_shards(32760, 1560, heads=40, degree=6, ring=4)


def test_tokens_must_divide():
    with pytest.raises(ConfigError, match="32760 tokens"):
        plan_shards(32760, 1560, heads=40, degree=16, ring=16)


@given(frames=some.integers(1, 6), size=some.integers(1, 12), degree=some.integers(1, 6))
def test_frames_come_back_as_the_tokens_they_were(frames, size, degree):
    frame_tokens = size * degree  # so that the tokens divide
    tokens = torch.arange(frames * frame_tokens).float().view(1, -1, 1, 1)
    pieces = []
    for shard in split_tokens(frames * frame_tokens, frame_tokens, degree):
        local = shard.slice_tokens(tokens)
        whole = shard.to_frames(local)
        assert whole.shape == (shard.stop_frame - shard.first_frame, frame_tokens, 1, 1)
        pieces.append(shard.from_frames(whole, batch=1))
        held = whole[whole > 0].long()  # token 0 looks like padding
        assert torch.equal(held // frame_tokens - shard.first_frame, (whole > 0).nonzero()[:, 0])
    assert torch.equal(torch.cat(pieces, dim=1), tokens)


def test_a_shard_hears_the_frames_it_touches():
    shard = Shard(start=10, stop=20, frame_tokens=8)
    assert shard.slice_frames(torch.arange(5)[None]).tolist() == [[1, 2]]


def test_alone_is_a_gang_of_one():
    rows = torch.tensor([[1.0, -2.0], [5.0, 3.0]])
    low, high = SingleDevice().min_max(rows)
    assert (low.tolist(), high.tolist()) == ([-2.0, 3.0], [1.0, 5.0])
    assert SingleDevice().first_frame(torch.arange(6).view(1, 6, 1, 1), 2).flatten().tolist() == [0, 1]
