"""The report of a study: rows, table, analyses, and each form they are written in."""
