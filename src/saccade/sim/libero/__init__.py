"""LIBERO: 130 tasks of a Panda arm on tables, in five suites (arXiv 2306.03310)."""
