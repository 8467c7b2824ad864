"""What the local provider says in end-to-end tests: a target model, and a proposer that improves a harness."""
