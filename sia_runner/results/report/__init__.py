"""The report: SIA-H against SIA-W+H as a page and as tables."""
