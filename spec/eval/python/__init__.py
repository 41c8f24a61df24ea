"""What surrounds a spec while it is evaluated. Loaded once in the zygote, before any fork."""
