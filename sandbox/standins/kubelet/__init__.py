"""A node agent in place of a kubelet: binds Pods to itself and runs their containers as local processes.

It resolves environment, volumes and mounts as a kubelet does, gives every container its mounts at their real places in a
private mount and process namespace, and reports phases, states, exit codes and termination messages, so that the real Job
controller, garbage collector and TTL controller work on top of it.

What it leaves out: images (a list maps them to local commands, :mod:`sandbox.standins.kubelet.images`), network namespaces (all
Pods share the loopback interface), users, capabilities, seccomp and other security contexts apart from
``readOnlyRootFilesystem``, CPU and memory limits, probes, lifecycle hooks, sidecar init containers, ephemeral containers,
``activeDeadlineSeconds`` of Pods, affinity and taints, evictions, volume types but those of
:mod:`sandbox.standins.kubelet.volumes`, ``subPathExpr``, token rotation (tokens live a day), and kubelet's own API: ``kubectl
logs`` and ``exec`` do not work, ``python -m sandbox logs POD`` does.
"""
