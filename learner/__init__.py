"""The learner: hands out credit, takes in chunks, trains, publishes bundles, keeps the books.

Threads: network (sockets and ledger), decode, trainer (the main thread), exporter; with local
actors also their supervisor. Only the trainer changes statistics, weights and schedules.
"""
