"""The ten types of task, the words that ask a model for one, and instructions whose type is plain, to try it on.

The types are those of the paper's analysis; the words are this project's own. Identity: the digest of all of it.
"""

from __future__ import annotations

from adg.artifacts.artifact import canonical
from adg.artifacts.files import sha256_text

# Type -> what it is called in the prompt.
TYPES = {
    "math": "math",
    "knowledge": "knowledge",
    "reasoning": "reasoning",
    "writing": "writing",
    "coding": "coding",
    "summarization": "summarization",
    "translation": "translation",
    "discrete_decision": "discrete decision",
    "instruction_following": "instruction following",
    "others": "others",
}
# One of each, shown before the instruction in question. With the embedded 135M model they serve better than a list of
# the types with what belongs to each: 26 of the 40 probes below against 16, and 17 with both.
EXAMPLES = (
    ("coding", "Write a program in Java that sorts a list of numbers."),
    ("math", "What is 15 percent of 240?"),
    ("translation", "Translate the following text to Italian."),
    ("writing", "Write a story about a lonely lighthouse keeper."),
    ("knowledge", "Which planet is the largest in the solar system?"),
    ("summarization", "Summarize the passage below."),
    ("discrete_decision", "Say whether this comment is spam or not spam."),
    ("reasoning", "If it rains the street is wet. The street is dry. Does it rain?"),
    ("instruction_following", "Begin every sentence of your answer with the letter B."),
    ("others", "Good morning!"),
)
ASKED = "Instruction:"
ANSWERED = "\nType:"
CONTENT_FREE = "N/A"  # in an instruction's place, as in Zhao et al. 2021 (arXiv 2102.09690)

# Instructions whose type nobody doubts, none of them an example above: whether a model can tell types at all.
PROBES = {
    "math": (
        "What is 37 times 14?",
        "Solve for x: 3x + 7 = 22.",
        "A train covers 180 km in 2.5 hours. What is its average speed?",
        "Find the area of a circle with a radius of 6 cm.",
    ),
    "knowledge": (
        "What is the capital of Australia?",
        "Who wrote the novel Don Quixote?",
        "Explain what photosynthesis is.",
        "When did the First World War end?",
    ),
    "reasoning": (
        "Tom is taller than Ana, and Ana is taller than Ben. Who is the shortest?",
        "If all roses are flowers and some flowers fade quickly, must some roses fade quickly?",
        "Five people sit in a row and Eve is not next to Max. Work out where each of them can sit.",
        "What comes next in this pattern: circle, square, circle, square, circle?",
    ),
    "writing": (
        "Write a short poem about the sea in autumn.",
        "Compose a cover letter for a job as a librarian.",
        "Tell a story about a dragon who is afraid of fire.",
        "Draft a blog post about the joys of baking bread.",
    ),
    "coding": (
        "Write a Python function that reverses a string.",
        "Fix the bug in this JavaScript loop.",
        "Give me an SQL query that counts the orders of each customer.",
        "Implement binary search in C++.",
    ),
    "summarization": (
        "Summarize the following article in two sentences.",
        "Give the main points of this paragraph.",
        "Condense the text below to half its length.",
        "Write a one-line summary of this email.",
    ),
    "translation": (
        "Translate this sentence into French: The weather is fine.",
        "How do you say 'good night' in Japanese?",
        "Put the following paragraph into German.",
        "Convert this Spanish text to English.",
    ),
    "discrete_decision": (
        "Classify this review as positive or negative.",
        "Is the following statement true or false?",
        "Label each of these animals as a mammal, a bird or a fish.",
        "Decide which category this news headline belongs to: sports, politics or business.",
    ),
    "instruction_following": (
        "Answer with exactly three words, all in capital letters.",
        "List five fruits in alphabetical order, one on each line.",
        "Reply to this message without using the letter e.",
        "Rewrite the sentence so that each word starts with a capital letter.",
    ),
    "others": (
        "Hello, how are you today?",
        "Thank you, that was very helpful.",
        "What is your name?",
        "I am bored.",
    ),
}


def name(task_type: str) -> str:
    """A type as it follows ``ANSWERED``: its words after a blank."""
    return f" {TYPES[task_type]}"


def prefix() -> str:
    """What every prompt begins with: an example of each type."""
    return "".join(f"{ASKED} {text}{ANSWERED}{name(task_type)}\n\n" for task_type, text in EXAMPLES)


HASH = sha256_text(canonical([prefix(), ASKED, ANSWERED, CONTENT_FREE, {t: list(p) for t, p in PROBES.items()}]))
