"""Steps of one candidate: write and check its harness, run it in the sandbox, verify its answers."""
