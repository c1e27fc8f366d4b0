"""CURVE keys: the key files, access control on the learner's sockets, and the outcome of handshakes."""
