"""What learner and actors share: the words, the values, the bytes and the sockets.

One meaning per word, here and in every file:

* step: one agent decision in one environment; frame: one emulator frame (4 per step on Atari);
* image: one 84x84 picture; lane: one environment of one actor;
* chunk: `[T, B]` steps of one actor, all played under one bundle;
* batch: the chunks of one update; update: one PPO update; pass: one sweep over a batch;
* version: number of completed updates; lag: learner version minus chunk version;
* bundle: policy, predictor and observation statistics of one version;
* session: one life of an actor in the learner's books; slot: its place in the fleet;
* generation: one learner process life;
* bonus: the raw prediction error; intrinsic reward: the scaled bonus.

This package imports neither `actor` nor `learner`.
"""

__version__ = "0.1.0"
