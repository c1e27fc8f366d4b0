"""The learning runs of docs/results.md: a queue of rows, their records, and tables made from the records."""
