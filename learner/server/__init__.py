"""The learner's protocol side: sessions, credit, the step ledger, decoding and weights."""
