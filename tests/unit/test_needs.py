"""What a run says about the machine before it promises anything."""

import pytest

from bertpress import needs
from bertpress.errors import UserError
from bertpress.measure.environment import Int8Check
from bertpress.needs import check_one_process
from bertpress.recipe import Recipe


@pytest.mark.parametrize("name", ["int8", "q8bert", "quick"])
def test_slow_integers_are_announced(name, monkeypatch):
    check = Int8Check(False, "int8 is smaller, hardly faster")
    monkeypatch.setattr(needs, "int8_is_fast", lambda: check)
    assert needs.hardware_note(Recipe.load(name)) == f"8-bit integers on this machine: {check.reason}"


def test_nothing_is_said_where_they_pay_or_are_not_used(monkeypatch):
    monkeypatch.setattr(needs, "int8_is_fast", lambda: Int8Check(True, "VNNI"))
    assert needs.hardware_note(Recipe.load("int8")) is None
    monkeypatch.setattr(needs, "int8_is_fast", lambda: Int8Check(False, "none"))
    assert needs.hardware_note(Recipe.load("linear-ptq")) is None


def test_what_is_spread_in_another_way_does_not_start_in_several_processes(monkeypatch):
    check_one_process("study")
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UserError, match="^study: WORLD_SIZE=3 must be 1; --ray spreads it"):
        check_one_process("study")
