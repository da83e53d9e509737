"""Graph passes that make the exported models faster."""
