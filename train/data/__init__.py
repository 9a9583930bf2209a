"""Real and procedural cohorts: finding cases, reading them, bringing them to the grid, the memory-mapped cache."""
