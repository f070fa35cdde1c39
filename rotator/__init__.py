"""Makes and renews the certificate and the token of the webhook: ``python -m rotator``, in a Pod of its own.

The webhook has no rights in the cluster, so somebody else has to write the Secret that it mounts and tell Metacontroller
whom to trust. That is this program, and nothing else (docs/adr/0005-webhook-caller.md).
"""
