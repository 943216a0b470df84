"""Decoding: sessions, the loop of drafting and verifying, its draft length and its figures."""
