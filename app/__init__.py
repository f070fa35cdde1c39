"""The webhook: stateless Metacontroller hooks that answer with children and status. No Kubernetes API access, no storage."""
