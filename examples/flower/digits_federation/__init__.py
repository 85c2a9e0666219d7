"""A Flower app whose server is taster's."""
