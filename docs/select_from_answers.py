# %% [markdown]
# # Choosing instruction data from answers you already have
#
# ADG asks how far apart several sampled answers to one instruction lie. Here are records and answers as plain lists,
# and four steps: vectors, Gram matrices, scores, subset. Run this file as it is, or cell by cell in an editor that
# knows `# %%`.

# %%
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # not needed once the package is installed

import numpy as np

from adg import BinsConfig, Record, choose, cluster, gram, load_backbone, score, select_from_answers

# %% [markdown]
# ## Records and answers
# Every record has an id and an instruction; every record has the same number of answers.

# %%
records = [
    Record(0, "Name a colour."),
    Record(1, "What is two plus two?"),
    Record(2, "Suggest a weekend trip."),
    Record(3, "What is the capital of France?"),
    Record(4, "Write the first line of a novel."),
    Record(5, "Spell the word cat."),
    Record(6, "Invent a name for a boat."),
    Record(7, "How many days has a week?"),
    Record(8, "Describe a smell you like."),
    Record(9, "Which planet is nearest to the sun?"),
]
answers = [
    ["Blue.", "A deep red.", "Green, like moss."],
    ["Four.", "Four.", "It is four."],
    ["Hike along the coast.", "Visit a museum by train.", "Stay in and bake bread."],
    ["Paris.", "Paris.", "The capital is Paris."],
    ["The lamp went out first.", "Nobody had counted the boats.", "My uncle sold rain."],
    ["c a t", "C, A, T", "cat"],
    ["Second Breakfast", "The Patient Heron", "Salt and Pepper"],
    ["Seven.", "Seven days.", "7"],
    ["Rain on warm stone.", "Coffee before dawn.", "Old books in a cold hall."],
    ["Mercury.", "Mercury.", "It is Mercury."],
]

# %% [markdown]
# ## With vectors of your own
# Any encoder will do for a first look. This one counts letters, so it knows nothing about meaning; put your own in its
# place. The array is (records, answers, width).


# %%
def letters(text: str) -> np.ndarray:
    """How often each letter occurs, (26,)."""
    return np.array([text.lower().count(chr(ord("a") + i)) for i in range(26)], dtype=float)


vectors = np.array([[letters(text) + 1e-3 for text in given] for given in answers])
grams = gram(vectors)  # cosines between the answers of each record, (10, 3, 3)
scores = score(grams)  # dispersion, anisotropy and 0.6 D + 0.4 I, (10,) each
for record, d, i, s in zip(records, scores.dispersion, scores.anisotropy, scores.score, strict=True):
    print(f"{record.instruction:<38} D {d:.3f}   I {i:.3f}   score {s:.3f}")

# %% [markdown]
# The best of all, or the best of each bin, so that no kind of instruction takes every place. The method makes its bins
# by clustering vectors of the instructions; any grouping will do.

# %%
clusters = cluster(np.array([letters(record.instruction) for record in records]), BinsConfig(clusters=2))
questions = np.array([record.instruction.endswith("?") for record in records]).astype(int)
print("best four:                       ", [records[row].id for row in choose(scores.score, 4)])
print("best four of clusters:           ", [records[row].id for row in choose(scores.score, 4, clusters)])
print("best four of questions and tasks:", [records[row].id for row in choose(scores.score, 4, questions)])

# %% [markdown]
# Other weights, fewer answers or another part of the ranking cost nothing more: the matrices are all that is needed.
# (lam weighs otherwise at each number of answers; with two answers anisotropy is always 0.)

# %%
for lam in (0.0, 0.4, 1.0):
    print(f"lam {lam}:", [records[row].id for row in choose(score(grams, lam).score, 4)])
print("first two answers:", [records[row].id for row in choose(score(grams, answers=2).score, 4)])

# %% [markdown]
# ## With the method's own vectors
# `embed` runs prompt and answers through a language model and pools its last four layers, as the paper does;
# `select_from_answers` does every step. `tiny_random` has random weights and is here because it takes a second. For
# vectors that mean something: `load_backbone("smollm2_135m")`, a folder, or a hub id with its commit.

# %%
with tempfile.TemporaryDirectory() as folder:
    model, tokenizer = load_backbone("tiny_random", device="cpu", runs=folder)
chosen = select_from_answers(records, answers, model, tokenizer, budget=4, clusters=BinsConfig(clusters=2))
for record, row in zip(chosen.records, chosen.rows, strict=True):
    print(f"{chosen.scores.score[np.flatnonzero(chosen.scored == row)[0]]:.3f}  {record.instruction}")
