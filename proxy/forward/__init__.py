"""One request's way from a local caller to Fumage and back."""
