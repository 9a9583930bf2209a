"""The anatomy that an image is drafted on: an individual brain, drawn and deformed, or that of a given scan."""
