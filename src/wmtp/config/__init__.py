"""Settings: recipes (what is learned) and environments (where it runs)."""
