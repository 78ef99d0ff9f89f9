"""KAR for one user on one machine, to try an application without Kafka and Redis.

How a call travels from one component of an application to another:

    process ---> sidecar ---> delivery ---> http1 or http2 ---> process of the service
                                 |
                              registry

- cli: reads the command line.
- commands: kar run, which starts a sidecar and the process of the component, and kar rest.
- process: starts the command of the component, copies its output, and determines the exit status.
- sidecar: the HTTP API that the process of the component calls.
- registry: knows the live sidecars of the application, which find each other in a directory.
- delivery: chooses a replica of the service, follows redirects, and sends the request again where
  KAR would.
- messages: a request, its response and the errors; what Go's HTTP client makes of headers.
- http1, http2: send a request to one replica, over HTTP/2 if its service was started with -h2c. A
  request that was not processed over HTTP/2 is sent again.
- refusals: decides which calls are refused, because they would hang, be damaged or be lost on the
  real KAR. The caller gets status 501, or KAR's own 500, and its kar logs the reason.
- go_text: how Go, the language of KAR, reads and writes text.
- output: how kar writes its own lines.

README.md beside this file tells how the embedded KAR differs from the real one.
"""
