"""The checks of `realvideo doctor`. Each looks at one subject, changes nothing, and ends in time."""
