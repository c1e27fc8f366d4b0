"""The agent of a checkpoint, recordings of its episodes and videos, for `learner.evaluate`."""
