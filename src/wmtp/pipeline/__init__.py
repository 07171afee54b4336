"""From settings to objects and through the stages: the only place that builds them."""
