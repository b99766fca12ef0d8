"""The published index sets, and what lies outside the teacher is refused."""

from itertools import pairwise

import pytest

from bertpress.methods.layer_maps import last, mapped, skip, uniform


def test_the_map_of_tinybert():
    assert uniform(4, 12) == [0, 3, 6, 9, 12]
    assert uniform(6, 12) == [0, 2, 4, 6, 8, 10, 12]
    assert uniform(3, 3) == [0, 1, 2, 3]
    assert uniform(4, 6) == [0, 2, 3, 5, 6]  # 1.5, 3, 4.5, 6
    assert mapped("uniform", 4, 12) == [(1, 3), (2, 6), (3, 9), (4, 12)]


def test_the_sets_of_pkd():
    assert skip(6, 12) == [2, 4, 6, 8, 10]
    assert skip(3, 12) == [4, 8]
    assert last(6, 12) == [7, 8, 9, 10, 11]
    assert last(3, 12) == [10, 11]
    assert mapped("skip", 3, 12) == [(1, 4), (2, 8)]
    assert mapped("last", 3, 12) == [(1, 10), (2, 11)]
    assert mapped("skip", 1, 2) == mapped("last", 1, 2) == []


def test_the_last_layers_alone_and_a_list():
    assert mapped("final", 6, 12) == [(6, 12)]
    assert mapped("middle", 1, 12) == [(1, 6)]
    assert mapped("middle", 4, 5) == [(4, 3)]
    assert mapped((5, 1), 3, 6) == [(1, 5), (2, 1)]


@pytest.mark.parametrize("student", range(1, 13))
def test_every_map_rises_and_stays_inside(student):
    whole = uniform(student, 12)
    assert (whole[0], whole[-1]) == (0, 12)
    assert all(a < b for a, b in pairwise(whole))
    assert len(skip(student, 12)) == len(last(student, 12)) == student - 1
    assert all(1 <= layer < 12 for layer in [*skip(student, 12), *last(student, 12)])


@pytest.mark.parametrize(
    ("layer_map", "message"),
    [
        ("uniform", r"layer_map=uniform needs a student of at most 2 layers, not 3"),
        ("last", r"layer_map=last needs a student of at most 2 layers, not 3"),
        ((1, 2, 1, 2), r"layer_map=\[1, 2, 1, 2\] must name 1 to 3 layers, as the student has 3"),
        ((), r"layer_map=\[\] must name 1 to 3 layers"),
        ((0, 1), r"layer_map=\[0, 1\] must name layers in \[1, 2\], those of the teacher"),
        ((1, 3), r"layer_map=\[1, 3\] must name layers in \[1, 2\]"),
    ],
)
def test_what_is_not_there_is_refused(layer_map, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        mapped(layer_map, 3, 2)
