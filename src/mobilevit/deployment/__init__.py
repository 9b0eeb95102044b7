"""Leaving the training framework: the contract, the formats, and the proof that they agree."""
