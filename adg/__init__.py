"""Answer-divergence selection: sample answers, measure their geometry, select, and evaluate the selection."""
