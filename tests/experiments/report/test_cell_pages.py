"""What is behind a cell: a page with its manifests, its training and its items, within a limit; every link leads on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from adg.artifacts.store import Store
from experiments import cells
from experiments.report import behind, cell_pages, made

pytestmark = pytest.mark.usefixtures("sections_in_common")

Report = tuple[Path, list[Any]]


class Anchors(HTMLParser):
    """The addresses that a page names and the places in it that can be named."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.names: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attributes if name in ("href", "src", "xlink:href")]
        self.names += [value or "" for name, value in attributes if name == "id"]


def broken(folder: Path) -> Iterator[str]:
    """Every link of the pages of a report that leads nowhere."""
    pages = {path: Anchors(path.read_text(encoding="utf-8")) for path in folder.rglob("*.html")}
    for path, anchors in pages.items():
        for link in anchors.links:
            parts = urlsplit(link)
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if parts.scheme or not target.is_file():
                yield f"{path.name}: {link}"
            elif parts.fragment and unquote(parts.fragment) not in pages[target].names:
                yield f"{path.name}: {link} has no such place"


def test_every_link_resolves(report: Report) -> None:
    folder, chosen = report
    assert len(list(folder.glob("cells/*.html"))) == len(chosen)
    assert not list(broken(folder))


def test_a_link_that_leads_nowhere_is_seen(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text('<p id="x"><a href="#x"></a><a href="#y"></a><a href="b.html"></a></p>')
    assert len(list(broken(tmp_path))) == 2


def test_names_are_said_once_in_a_page(report: Report) -> None:
    for path in report[0].rglob("*.html"):
        names = Anchors(path.read_text(encoding="utf-8")).names
        assert len(names) == len(set(names)), path.name


def test_a_cell_leads_to_its_manifest_its_items_and_its_training(report: Report) -> None:
    folder, chosen = report
    index = Anchors((folder / "index.html").read_text(encoding="utf-8"))
    (cell,) = (cell for cell in chosen if cell.name.endswith("mini_cot/adg"))
    place = cell_pages.address(cell)
    assert {place, f"{place}#gsm8k"} <= set(index.links)
    text = (folder / unquote(place)).read_text(encoding="utf-8")
    page = Anchors(text)
    for role in ("adapter", "eval", "subset", "scores", "heldout"):
        assert f"../../../{cell.nodes[role].folder}/manifest.json".replace("+", "%2B") in page.links
    assert f"../../../{cell.nodes['adapter'].folder}/training.jsonl".replace("+", "%2B") in page.links
    assert "6 steps with a loss" in text and ">learning rate<" in text
    assert "better than random" in text and "worse than random" in text and "other wrong" in text


def test_a_cell_that_is_not_there_says_so(report: Report) -> None:
    folder, chosen = report
    (cell, _) = (cell for cell in chosen if cell.config.selector["name"] == "ifd")
    text = (folder / unquote(cell_pages.address(cell))).read_text(encoding="utf-8")
    assert "needs what nobody has: a &lt; b" in text and "No training is finished." in text
    index = (folder / "index.html").read_text(encoding="utf-8")
    assert index.count("needs what nobody has") == 1, "two rows have one reason, which is said once"


def test_items_change_as_the_scores_say(shown_study: Any) -> None:
    chosen = shown_study.chosen("pool=mini_general")
    shown_study.finish(chosen)
    found = {cell.config.selector["name"]: behind.found(cell, shown_study.study.store) for cell in chosen}
    tasks = behind.tasks(found["adg"], found["random"], 1_000_000)
    for task in tasks:
        kinds = {kind.name: kind.count for kind in task.kinds}
        assert task.right + task.wrong == 20 == sum(kinds.values())
        assert (kinds["better than random"], kinds["worse than random"]) == (task.better, task.worse)
        assert (task.better or 0) - (task.worse or 0) == 2, "adg has nine right, random seven"
        assert all(len(kind.shown) == kind.count for kind in task.kinds)
    assert all(task.better is None for task in behind.tasks(found["random"], None, 1_000_000))


@pytest.mark.parametrize("limit", [0, 3_000, 12_000])
def test_items_stay_within_the_limit(shown_study: Any, limit: int) -> None:
    chosen = shown_study.chosen("pool=mini_general")
    shown_study.finish(chosen, items=40, prompt="word " * 200)
    adg, random = (behind.found(cell, shown_study.study.store) for cell in (chosen[3], chosen[1]))
    assert adg is not None and random is not None
    tasks = behind.tasks(adg, random, limit)
    size = sum(len(text.encode()) for task in tasks for kind in task.kinds for text in kind.shown)
    assert size <= limit and (size > limit / 2 or not limit)
    assert sum(kind.count for task in tasks for kind in task.kinds) == 240, "what is not shown is counted"


def test_a_page_is_made_anew_only_where_it_would_change(shown_study: Any) -> None:
    chosen = shown_study.chosen("pool=mini_general")
    untrained, random, longest = chosen[:3]
    shown_study.finish([untrained, random])
    store, folder = Store(shown_study.study.runs), shown_study.study.runs / "report" / "x"

    def written(of: list[Any], title: str = "T") -> int:
        return cell_pages.write(of, [], store, made.artifacts(of, store), folder, title)

    assert [written([untrained, random]), written([untrained, random])] == [2, 0]
    assert [written([untrained, random, longest]), written([untrained, random, longest])] == [1, 0]
    shown_study.finish([longest])
    assert [written([untrained, random, longest]), written([untrained, random, longest])] == [1, 0]
    assert written([untrained, random, longest], "Another title") == 3
    assert written([random], "Another title") == 0
    assert [path.name for path in folder.glob("cells/*")] == [unquote(cell_pages.address(random)).split("/")[1]]


def test_items_of_others_are_text(shown_study: Any) -> None:
    chosen = shown_study.chosen("pool=mini_general")[:2]
    shown_study.finish(chosen, prompt="<script>alert(1)</script>\x1b[2J\u202e")
    for path in shown_study.write(chosen).glob("cells/*.html"):
        text = path.read_text(encoding="utf-8")
        assert "<script" not in text and not {"\x1b", "\u202e"} & set(text)
        assert "&lt;script&gt;alert(1)&lt;/script&gt;\\x1b[2J\\u202e" in text


@pytest.mark.slow
def test_a_mini_study_with_its_samples_stays_under_5_mb(shown_study: Any) -> None:
    """All cells of the mini profile, each with more items and longer prompts than it has."""
    chosen = cells.cells(
        ["profile=mini", f"exec.runs={shown_study.study.runs}", "selector=untrained,random,longest,adg"]
    )
    many = len(cells.cells(["profile=mini"]))
    shown_study.finish(chosen, items=30, prompt="word " * 200)
    folder = shown_study.write(chosen)
    texts = [path.read_text(encoding="utf-8") for path in folder.glob("cells/*.html")]
    bare = [len(re.sub(r"<article.*?</article>", "", text, flags=re.DOTALL).encode()) for text in texts]
    pages, index = sum(len(text.encode()) for text in texts), (folder / "index.html").stat().st_size
    assert len(texts) == len(chosen) and pages - sum(bare) <= cell_pages.ALL
    whole = cell_pages.ALL + max(bare) * many + index * many / len(chosen)
    print(f"{len(texts)} pages {pages:,} bytes, index {index:,} bytes; {many} cells at most {whole:,.0f} bytes")
    assert pages - sum(bare) > cell_pages.ALL / 2, "items are as many as there is room for"
    assert whole < 5_000_000
    assert not re.search(r"data:image/png[^>]{200000}", (folder / "index.html").read_text(encoding="utf-8"))
