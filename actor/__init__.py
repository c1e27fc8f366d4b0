"""The actor: steps environments with the learner's policy, rates what it sees, ships the facts.

One process, one core, one thread. Everything it needs to know comes in the learner's Welcome.
"""
