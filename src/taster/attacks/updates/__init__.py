"""Attacks on the updates of federated clients."""
