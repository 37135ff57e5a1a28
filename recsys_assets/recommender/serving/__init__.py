"""Serving: the model in use and the lists that users see, including new users."""
