"""Programs that stand for those which cannot be real on a laptop: Metacontroller, the kubelet, br's data path."""
