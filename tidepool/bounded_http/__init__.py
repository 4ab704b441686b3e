"""An HTTP server with limits on what callers can make it do: uvicorn, with its own protocol class.

- `limits`    the bounds, and why they are what they are
- `listening` opens the sockets
- `protocol`  one connection: bounds on heads, bodies, framing and the time that they may take
- `server`    accepts connections, and closes the longest idle one if there are too many

It serves the HTTP front (`tidepool.web`) and a worker's METRICS_PORT. Importing it imports uvicorn, which takes 4 MB: a
worker does so only if it has a METRICS_PORT.
"""
