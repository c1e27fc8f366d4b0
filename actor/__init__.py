"""The actor: it steps environments with the learner's policy, computes the bonus, and sends chunks.

An actor is one process with one thread on one core. The learner's Welcome carries its configuration.
"""
