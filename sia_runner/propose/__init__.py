"""Who proposes what: which candidate is extended, what its proposer is asked, and where it tries things."""
