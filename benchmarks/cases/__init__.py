"""One module for each case: ``run(results, quick=...)``."""
