"""The protocol between actors and the learner: its messages, their encoding and the data sockets."""
