"""Does the avatar speak what it is given, and stay who it is? Held to the truth of drawn faces."""
