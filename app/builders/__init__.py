"""Pure construction of the Kubernetes objects that a decision asks for."""
