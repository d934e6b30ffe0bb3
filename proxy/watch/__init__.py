"""What a request leaves behind: its log line and its figures."""
