"""The guarded step: a model that keeps learning, what a step may change, and the way back."""
