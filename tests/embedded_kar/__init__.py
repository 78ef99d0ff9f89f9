"""KAR for one user on one machine, to try the example without Kafka and Redis.

The modules stand along the way of a call, and none knows the one before: command_line (with flags)
starts launcher, which runs a component of an application beside its sidecar; sidecar (on
http_server) takes the component's calls; replicas (with runtime_folder) chooses who answers; call
(with h2c, and go for Go's manners) delivers.
"""
