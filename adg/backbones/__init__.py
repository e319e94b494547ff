"""Language models: embedded, local or from the hub, pinned and loaded one way everywhere."""
