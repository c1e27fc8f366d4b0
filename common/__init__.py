"""What learner and actors share: configuration, environments, protocol, model, keys and processes.

The terms of this project:

* step: one decision of the agent in one environment; frame: one emulator frame (4 per step on Atari);
* image: one 84x84 observation; lane: one environment of one actor;
* chunk: `[T, B]` steps of one actor, all with the weights of one bundle;
* batch: the chunks of one update; update: one PPO update; epoch: one pass over a batch;
* version: the number of completed updates; lag: the learner's version minus the chunk's version;
* bundle: policy, predictor and observation statistics of one version;
* session: one actor's membership in the run, from its Hello until it leaves or its lease ends;
* slot: the number of an open session, from 0; a later session may reuse it;
* incarnation: how many sessions have used a slot before;
* generation: the number of times that the learner of a run has been started before;
* lease: the time for which a session stays open without a message of its actor;
* credit: the offset up to which an actor may produce steps; grant: a place in a batch for one chunk;
* settle: to record a received step finally, as trained or as dropped for a reason;
* ledger: the record of every step, from its announcement until it is trained on or dropped;
* bonus: the unscaled prediction error; intrinsic reward: the scaled bonus.

This package imports neither `actor` nor `learner`.
"""

__version__ = "0.1.0"
