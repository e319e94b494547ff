"""Libraries that not every installation has, and what brings each: an extra of the package (``pyproject.toml``)."""

from __future__ import annotations

EXTRA_OF = {
    **dict.fromkeys(
        ("accelerate", "torch", "transformers", "tokenizers", "datasets", "gguf", "safetensors", "sacrebleu"),
        "sampling",
    ),
    "vllm": "vllm",
    **dict.fromkeys(("peft", "trl"), "train"),
    **dict.fromkeys(("evaluate", "lm_eval"), "eval"),
    **dict.fromkeys(("ray", "submitit"), "scale"),
    **{name: name for name in ("wandb", "tensorboard", "trackio", "mlflow")},
    "sqlalchemy": "mlflow",
    **dict.fromkeys(("hypothesis", "pytest"), "test"),
}


def missing(error: ModuleNotFoundError) -> str:
    """What to do about a library that is not there; "" where it is none of these."""
    library = (error.name or "").partition(".")[0]
    if library not in EXTRA_OF:
        return ""
    return (
        f"this needs {library}, which is not installed; install the project with its extra, in a checkout: "
        f"pip install '.[{EXTRA_OF[library]}]'"
    )
