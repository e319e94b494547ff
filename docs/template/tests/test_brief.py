"""What the selector is for. The contract that all selectors meet is tested by one command: see README.md."""

from my_selection.brief import Brief, BriefConfig

from adg import Record
from adg.selection.contract import SelectorData, select

RECORDS = [Record(1, "Say it.", output="one two three"), Record(2, "Say.", output="one"), Record(3, "Now.", output="")]


def test_the_fewest_words_come_first_and_an_empty_answer_never() -> None:
    selector, data = Brief(BriefConfig()), SelectorData(RECORDS)
    table = selector.scores(data)
    assert [RECORDS[row].id for row in select(selector, data, table, budget=2)] == [2, 1]
    assert table.invalid == {2: "fewer words than 1"}
