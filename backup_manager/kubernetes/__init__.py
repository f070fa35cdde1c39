"""The API server as a Job sees it: the client, the CR, the Lease, the Pods that still write."""
