"""Starts and stops processes, links them to their parent, and defines their exit codes."""
