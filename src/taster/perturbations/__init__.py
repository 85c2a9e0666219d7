"""Norm balls, objectives and projected gradient descent."""
