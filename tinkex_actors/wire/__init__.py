"""The Tinker wire, without I/O: messages to bytes and back, for the client and for the server.

Inside the package only; nothing here is stable.
"""
