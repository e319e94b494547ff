"""Fine-tuning of a backbone on a subset: the thin edge to TRL and PEFT, and the script for several GPUs."""
