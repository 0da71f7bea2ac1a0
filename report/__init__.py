"""The report: its experiments, what their runs gave, its figures, tables and text (report/README.md)."""
