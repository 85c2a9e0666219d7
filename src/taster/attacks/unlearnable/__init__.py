"""Noise that keeps others from learning from one's images (unlearnable examples), one method a file."""
