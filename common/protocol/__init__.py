"""The messages between actors and the learner: their values, their bytes and the sockets for data."""
