"""Drafters: what proposes the tokens that the model then verifies."""
