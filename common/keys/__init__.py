"""Key files, CURVE access control and the handshake: which peers may connect to a learner."""
