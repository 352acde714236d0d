"""Each task's events as a path of the model's text: the second level of conform."""
