"""What the front and the worker share."""
