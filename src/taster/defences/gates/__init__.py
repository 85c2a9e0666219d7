"""Gates: judge an update after it has been made, on trusted data."""
