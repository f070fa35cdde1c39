"""The API server as a Job sees it: the client, the CR, and what Pods tell of their end."""
