"""Query to passages: immutable index versions, the stores and lexical index in them, and the service over both."""
