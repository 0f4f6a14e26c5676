"""What docker-compose.yml needs beside images: its secrets and its bucket."""
