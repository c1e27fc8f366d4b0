"""What a run shows and records: metrics, the live page, the progress line, logs and the summary."""
