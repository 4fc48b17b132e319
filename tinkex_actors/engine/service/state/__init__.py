"""What an engine knows of its clients: sessions, promises, the order of requests, and the jobs they make."""
