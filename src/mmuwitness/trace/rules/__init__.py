"""What every trace keeps to: the first level of conform."""
