"""Whether synthetic volumes help: segmenters trained with and without them, tested on cases that none of them saw."""
