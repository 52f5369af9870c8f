"""The picture of the house shows the imports as they are."""

from docs.draw_house import PICTURE, cycles, draw, essential, layers, reachable, without_cycles

TRIANGLE = {"pipeline.a": {"pipeline.b": 1, "pipeline.c": 1}, "pipeline.b": {"pipeline.c": 1}, "pipeline.c": {}}
RING = {"pipeline.a": {"pipeline.b": 3}, "pipeline.b": {"pipeline.a": 1}}


def test_the_picture_is_up_to_date():
    assert PICTURE.read_text() == draw(), "docs/house.svg does not show the imports as they are; run: make picture"


def test_imports_that_follow_from_others_are_left_out():
    assert essential(TRIANGLE) == [("pipeline.a", "pipeline.b"), ("pipeline.b", "pipeline.c")]
    assert reachable(TRIANGLE, "pipeline.a") == {"pipeline.b", "pipeline.c"}


def test_a_room_is_drawn_below_its_importers():
    assert layers(TRIANGLE, "pipeline") == [["pipeline.a"], ["pipeline.b"], ["pipeline.c"]]


def test_a_cycle_is_found_and_its_rarest_import_is_taken_out():
    assert cycles(TRIANGLE) == []
    assert cycles(RING) == [("pipeline.a", "pipeline.b"), ("pipeline.b", "pipeline.a")]
    assert without_cycles(RING) == ({"pipeline.a": {"pipeline.b": 3}, "pipeline.b": {}}, [("pipeline.b", "pipeline.a")])
