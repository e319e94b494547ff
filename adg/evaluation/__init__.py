"""The evaluation stage: lm-evaluation-harness behind one adapter, with confined code execution."""
