"""Processes: their start, the link to their parent, their stop and their exit codes."""
