"""An assessment as one HTML file that needs nothing else: no scripts, no fonts, no other files."""
