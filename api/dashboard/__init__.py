"""The page for people: jobs with live progress, posters and videos. Rendered here; a small script keeps it fresh."""
