"""What several selectors share: losses, vectors, annotations, pinned files."""
