"""Answers: K continuations of each instruction, sampled by transformers or vLLM."""
