"""Training: batches, targets, PPO and RND updates, running statistics and checkpoints."""
