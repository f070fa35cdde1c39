"""A stand-in for Metacontroller 4.17, for machines without its binary.

It does what our hooks can notice, in the same order and with the same wire format: CompositeControllers (generateSelector or
``spec.selector``; ``OnDelete``, ``InPlace`` and ``Recreate`` children, dynamic apply), DecoratorControllers, customize with its
cache, finalizers, whole-status replacement on a fresh GET, adoption and release, resync, backoff, 429, events, strict decoding,
caches that are behind the API server.

Left out, and refused or ignored aloud where a controller asks for it: Rolling* update methods and ControllerRevisions,
server-side apply, etag caching, ``clientTLS``, ``basicAuth``, ``caBundle.configMapRef``, ``endpointConfigs``, hook version v1,
leader election, metrics, client-side rate limits, ``metadata`` labels selecting which controllers this instance serves.
Production always uses the real one; ``METACONTROLLER_BIN`` puts it in this one's place.
"""
