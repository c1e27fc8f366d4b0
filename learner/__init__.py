"""The learner: grants credit, receives chunks, trains, publishes weight bundles and accounts for every step.

The main thread trains; it alone changes weights, statistics and schedules. The network thread owns the
sockets and the step ledger. Other threads decode chunks, serve metrics and the live page, supervise local
actors and detect threads that hang.
"""
