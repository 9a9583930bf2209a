"""Masks as things that are edited: moved and scaled by numbers, varied, grown and shrunk inside a brain."""
