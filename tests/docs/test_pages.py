"""What the pages name is there: links and their headings, options, words of the glossary, and how to cite."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from baselines import selector_types
from experiments.config import Config

LINK = re.compile(r"\]\(([^)\s]+)\)")
OPTION = re.compile(r"(?<![\w./-])([a-z_]+)\.([a-z_]+(?:\.[a-z_]+)*)(?=[=,`\s]|$)")
ASKED = (
    *("backbone", "pool", "budget", "subset", "cell", "adapter", "dispersion", "anisotropy", "lam", "strict match"),
    *("`*`", "pass@1", "held-out loss", "ledger", "verdict", "row 0", "controls"),
)
FIVE_MINUTES = 1_100  # words of prose, at 220 a minute


def anchor(heading: str) -> str:
    """How a heading is linked to."""
    return re.sub(r"[^\w -]", "", heading.strip().lower()).replace(" ", "-")


def prose(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def test_links_lead_somewhere(documents: Mapping[str, str], root: Path) -> None:
    count = 0
    for page, text in documents.items():
        for link in LINK.findall(text):
            if link.startswith("http"):
                continue
            name, _, heading = link.partition("#")
            target = (root / page).parent / name if name else root / page
            assert target.exists(), f"{page}: {link}"
            if heading:
                headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
                assert heading in map(anchor, headings), f"{page}: {link}"
            count += 1
    assert count > 30


def test_every_page_is_reached_from_the_readme(documents: Mapping[str, str], root: Path) -> None:
    reached, waiting = set(), ["README.md"]
    while waiting:
        page = waiting.pop()
        if page in documents and page not in reached:
            reached.add(page)
            links = (link.partition("#")[0] for link in LINK.findall(documents[page]) if not link.startswith("http"))
            waiting += [((root / page).parent / link).resolve().relative_to(root).as_posix() for link in links if link]
    assert reached == set(documents)


def test_the_readme_is_read_in_five_minutes(documents: Mapping[str, str]) -> None:
    assert len(prose(documents["README.md"]).split()) <= FIVE_MINUTES


def options(cls: Any) -> Iterator[str]:
    """The dotted keys of a dataclass of settings."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        yield field.name
        kinds = [hints[field.name], *typing.get_args(hints[field.name])]
        for kind in filter(dataclasses.is_dataclass, kinds):
            yield from (f"{field.name}.{key}" for key in options(kind))


def test_options_that_pages_name_exist(documents: Mapping[str, str]) -> None:
    known = set(options(Config))
    for selector in selector_types().values():
        known |= {f"selector.{key}" for key in options(selector.Config)}
    groups = {key.partition(".")[0] for key in known if "." in key} - {"hydra"}
    found = set()
    for page, text in documents.items():
        for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose(text)):
            for group, key in OPTION.findall(span):
                if group in groups and not key.endswith((".py", ".yaml", "jsonl", "parquet", "md")):
                    first = key.split(".")[0] if group == "suite" else key
                    assert f"{group}.{first}" in known, f"{page}: {group}.{key}"
                    found.add(f"{group}.{key}")
    assert len(found) > 40


def test_the_glossary_has_the_words_of_the_tables(documents: Mapping[str, str]) -> None:
    words = re.findall(r"^\| (.*?) \| ", documents["docs/glossary.md"], re.MULTILINE)[2:]
    said = [word.replace("**", "") for word in words]
    assert not [word for word in ASKED if not any(word in entry for entry in said)]
    assert said[:-1] == sorted(said[:-1], key=str.casefold), "in the order of the alphabet"


def test_citations_are_those_of_the_citation_file(documents: Mapping[str, str], root: Path) -> None:
    cff = yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))
    (block,) = re.findall(r"```bibtex\n(.*?)```", documents["README.md"], re.DOTALL)
    paper, software = (dict(re.findall(r"^  (\w+)\s*= \{+(.*?)\}+,?$", e, re.MULTILINE)) for e in block.split("\n\n"))
    (article,) = cff["references"]
    assert all(software[key] == cff[key] for key in ("title", "version", "license"))
    assert (software["author"],) == tuple(author["name"] for author in cff["authors"])
    assert paper["title"] == article["title"] and paper["year"] == str(article["year"])
    assert paper["author"].casefold() == article["authors"][0]["name"].casefold()
    assert article["identifiers"][0]["value"] in paper["note"] and article["notes"].split(". ")[0] == "ACL 2026"
    assert paper["booktitle"] == "ACL 2026"
