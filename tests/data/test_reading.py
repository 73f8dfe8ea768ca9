import os

from mrl_experiments.data.reading import SHOWN, Reading, Tally, shown


def test_a_tally_counts_all_and_keeps_the_first_few():
    tally, other = Tally(), Tally()
    tally.add("hidden", ".a")
    tally.add("empty")
    other.add("hidden", *(f"{number}" for number in range(7)))
    tally.add_all(other)
    assert tally.kinds == {"hidden": [8, [".a", "0", "1", "2", "3"]]} and tally.total == 8
    assert len(tally.kinds["hidden"][1]) == SHOWN
    assert str(tally) == "8 hidden (.a)" and tally.listed(2) == "8 hidden (.a, 0, ...)"


def test_accounts_of_several_files_add_up():
    both, other = Reading(read=2), Reading(read=3)
    both.converted.add("marked", "a.txt")
    other.converted.add("marked", "b.txt")
    both.add_all(other)
    assert both.manifest() == {"read": 5, "converted": {"marked": 2}, "skipped": {}}
    assert both.lines() == ["converted 2 marked: a.txt, b.txt"]


def test_names_are_shown_on_one_printable_line():
    assert shown("Käse 한국.png") == "Käse 한국.png"
    assert shown(os.fsdecode(b"a\xff\n\x1b[31m")) == r"a\xff\n\x1b[31m"
