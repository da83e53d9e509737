"""An assessment as one HTML file without scripts, fonts or links to other files."""
