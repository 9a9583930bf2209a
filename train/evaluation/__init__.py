"""Held-out figures: reconstruction, fidelity, diversity, adherence, memorisation."""
