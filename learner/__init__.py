"""The learner: grants credit, receives chunks, trains, publishes weights and accounts for every step.

Threads: trainer (the main thread), network (sockets and ledger), decoder, watchdog, and those of the HTTP
server; with local actors also their supervisor. Only the trainer changes statistics and weights.
"""
