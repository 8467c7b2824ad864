"""Tasks of the user's own: a skeleton to begin with, and a hostile review before they are believed."""
