"""Processes: how they start, stay tied to their parent, stop, and what their exit codes mean."""
