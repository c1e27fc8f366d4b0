"""The networks, the policy that acts, and the RND bonus; shared by actors and the learner."""
