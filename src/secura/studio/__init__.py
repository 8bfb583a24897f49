"""The runs of a folder as web pages: watched, started, stopped and talked to in a browser."""
